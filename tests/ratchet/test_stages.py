"""What a stage is, how it shards, and what its verbs refuse."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet.artifacts import RECORDS, Artifact, Grid, Manifest, Opened
from ratchet.errors import CorruptArtifact, InputError
from ratchet.records import Problem, Rollout, write
from ratchet.stages import VERBS, Draft, Given, Stage, run
from tests.toys.parts import Judge, Keep, Sums, Toss

POLICY = Artifact(identity="p", digest="dp", kind="policy")
PROBLEMS = Artifact(identity="q", digest="dq", kind="problems", rows=12)


def stage(**changes: Any) -> Stage:
    given: dict[str, Any] = {"verb": "synthesize", "component": Toss(), "inputs": {"policy": POLICY, "problems": PROBLEMS}, "seed": 7}
    return Stage(**(given | changes))


def test_what_a_stage_is_decides_its_identity() -> None:
    other = dataclasses.replace(POLICY, digest="another")
    changed = [
        stage(seed=8),
        stage(component=Toss(samples=5)),
        stage(inputs={"policy": other, "problems": PROBLEMS}),
        stage(inputs={"policy": PROBLEMS, "problems": POLICY}),
        stage(shard=(0, 3)),
        stage(verb="verify"),
    ]
    assert 7 == len({s.identity for s in [stage(), *changed]})


def test_where_a_stage_stands_and_who_made_its_inputs_do_not() -> None:
    elsewhere = stage(round=5, ordinal=2, cell="temperature=1", purpose="evaluation")
    same_content = stage(inputs={"policy": dataclasses.replace(POLICY, identity="made otherwise"), "problems": PROBLEMS})
    assert {stage().identity} == {elsewhere.identity, same_content.identity}


def test_a_title_says_where_a_stage_stands() -> None:
    assert "round 0 · synthesize" == stage().title
    assert "round 2 · evaluation · synthesize #2 · temperature=0.7 · shard 3/8" == (
        stage(round=2, purpose="evaluation", ordinal=1, cell="temperature=0.7", shard=(2, 8)).title
    )


@pytest.mark.parametrize(("rows", "per_shard", "count"), [(12, 5, 3), (10, 5, 2), (11, 5, 3), (5, 5, 0), (1, 5, 0), (12, None, 0)])
def test_a_stage_is_cut_into_shards_of_so_many_rows(rows: int, per_shard: int | None, count: int) -> None:
    inputs = {"policy": POLICY, "problems": dataclasses.replace(PROBLEMS, rows=rows)}
    assert count == len(stage(component=Toss(rows_per_shard=per_shard), inputs=inputs).shards())


def test_shards_draw_differently_and_do_not_shard_again() -> None:
    shards = stage().shards()
    assert [(0, 3), (1, 3), (2, 3)] == [s.shard for s in shards]
    assert 3 == len({s.seed for s in shards})
    assert [[], [], []] == [s.shards() for s in shards]
    assert [None, None, None] == [s.seed for s in stage(seed=None).shards()]


def test_a_spec_is_all_that_a_job_needs() -> None:
    spec = stage().spec()
    assert {"policy": "p", "problems": "q"} == spec["inputs"]
    assert {"policy": "dp", "problems": "dq"} == spec["digests"]
    assert stage().identity == spec["identity"]


def opened(folder: Path, rows: Sequence[Problem | Rollout], kind: str) -> Opened:
    folder.mkdir(parents=True)
    write(folder / RECORDS, rows)
    return Opened(manifest=Manifest(identity=folder.name, kind=kind, rows=len(rows), metrics={}, files={}), folder=folder)


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    for name in ("draft", "scratch"):
        (tmp_path / name).mkdir()
    return Draft(folder=tmp_path / "draft", scratch=tmp_path / "scratch")


ROLLOUTS = [Rollout(problem_id="p", sample=n, prompt="a", completion=f"#{n}", reference="1") for n in range(3)]


def test_a_shard_reads_its_own_rows(tmp_path: Path) -> None:
    part = SimpleNamespace(rows_per_shard=2)
    given = Given(inputs={"rollouts": opened(tmp_path / "in", ROLLOUTS, "rollouts")}, component=part, shard=(1, 2))
    assert [ROLLOUTS[2]] == given.records("rollouts")


def test_a_group_of_problems_is_a_shard(tmp_path: Path, draft: Draft) -> None:
    problems = [Problem(id=str(n), prompt="?", group=group) for n, group in enumerate(["b", "a", "a", "c"])]
    made = VERBS["propose"](SimpleNamespace(propose=lambda: iter(problems)), Given(inputs={}), draft, 0)
    assert (("b", 1), ("a", 2), ("c", 1)) == made.groups
    part = Synthesis()
    given = Artifact(identity="p", digest="d", kind="problems", rows=4, groups=made.groups)
    shards = Stage(verb="synthesize", component=part, inputs={"problems": given}, seed=1).shards()
    assert [(0, 3), (1, 3), (2, 3)] == [shard.shard for shard in shards]
    assert 3 == len({shard.seed for shard in shards})
    source = opened(tmp_path / "in", problems, "problems")
    source = dataclasses.replace(source, manifest=dataclasses.replace(source.manifest, groups=made.groups))
    assert [["b"], ["a", "a"], ["c"]] == [
        [problem.group for problem in Given(inputs={"problems": source}, component=part, shard=(index, 3)).records("problems")] for index in range(3)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthesis:
    shard_by_group: bool = True


@pytest.mark.parametrize("groups", [["a", "b", "a"], ["a", None], [None, "a"]])
def test_a_group_that_does_not_stand_together_is_refused(draft: Draft, groups: list[str | None]) -> None:
    problems = [Problem(id=str(n), prompt="?", group=group) for n, group in enumerate(groups)]
    with pytest.raises(InputError, match=r"(?s)row \d is of group .* a group's rows together"):
        VERBS["propose"](SimpleNamespace(propose=lambda: iter(problems)), Given(inputs={}), draft, 0)


def test_verify_counts_outcomes(tmp_path: Path, draft: Draft) -> None:
    made = VERBS["verify"](Judge(), Given(inputs={"rollouts": opened(tmp_path / "in", ROLLOUTS, "rollouts")}), draft, 0)
    assert (3, 1, 2, 1.0) == (made.rows, made.metrics["correct"], made.metrics["wrong"], made.metrics["reward_sum"])


class Loses:
    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        yield dataclasses.replace(rollouts[0], outcome="correct")


def test_a_verifier_that_loses_rollouts_is_refused(tmp_path: Path, draft: Draft) -> None:
    with pytest.raises(InputError, match=r"Loses.verify gave 1 rollouts for 3"):
        VERBS["verify"](Loses(), Given(inputs={"rollouts": opened(tmp_path / "in", ROLLOUTS, "rollouts")}), draft, 0)


def test_an_empty_task_is_refused(draft: Draft) -> None:
    with pytest.raises(InputError, match="has no problems in its train split"):
        VERBS["propose"](Sums(size=0), Given(inputs={}), draft, 0)


def test_an_empty_selection_is_an_artifact_like_any_other(tmp_path: Path, draft: Draft) -> None:
    made = VERBS["select"](Keep(), Given(inputs={"rollouts": opened(tmp_path / "in", ROLLOUTS, "rollouts")}), draft, 0)
    assert ("demonstrations", 0, 3, 0) == (made.kind, made.rows, made.metrics["given"], made.metrics["kept"])
    assert "" == (draft.folder / RECORDS).read_text()


def test_a_grid_where_one_artifact_is_needed_is_refused_and_the_other_way_round(tmp_path: Path) -> None:
    one = opened(tmp_path / "in", ROLLOUTS, "rollouts")
    given = Given(inputs={"one": one, "grid": {"0.5": one}})
    with pytest.raises(InputError, match="is a grid where one artifact is needed"):
        given.one("grid")
    with pytest.raises(InputError, match="is one artifact where a grid is needed"):
        given.cells("one")


def test_a_stage_runs_from_its_spec(tmp_path: Path, draft: Draft) -> None:
    asked = Stage(verb="verify", component=Judge(), inputs={"rollouts": Artifact(identity="in", digest="d", kind="rollouts", rows=3)})
    made = run(asked.spec(), {"in": opened(tmp_path / "in", ROLLOUTS, "rollouts")}.__getitem__, draft)
    assert ("rollouts", 3) == (made.kind, made.rows)


def test_a_policy_has_no_rows_to_read(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="holds a policy, not records"):
        list(opened(tmp_path / "in", [], "policy").records())


def test_the_digest_of_content_ignores_who_made_it() -> None:
    files = {"records.jsonl": {"sha256": "abc", "bytes": 3}}
    one = Manifest(identity="a", kind="rollouts", rows=1, metrics={"x": 1.0}, files=files, producer={"verb": "verify"}, inputs={"rollouts": "d"})
    assert one.digest == Manifest(identity="b", kind="rollouts", rows=1, metrics={}, files=files).digest
    assert one.digest != dataclasses.replace(one, files={"records.jsonl": {"sha256": "abd", "bytes": 3}}).digest
    assert one.digest != dataclasses.replace(one, parts=({"identity": "s", "digest": "x", "rows": 1},)).digest


def test_a_grid_is_one_artifact_per_value() -> None:
    assert [("0.5", POLICY)] == list(Grid("temperature", {"0.5": POLICY}).items())
