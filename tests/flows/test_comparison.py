"""`ratchet compare`: which rounds meet, what may not be compared, and that the numbers are those of the items on disk."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from scipy.stats import binomtest, chi2

from ratchet.champions import headline_of
from ratchet.errors import InputError, RatchetError
from ratchet.flows.cli import parser
from ratchet.flows.comparison import compare, incomparable, item_value
from ratchet.flows.measured import Measured, _found, _verdict, measured
from ratchet.flows.statistics import holm
from ratchet.infra.lease import Lease
from ratchet.infra.runs import RunFolder
from tests.toys.compared import some_runs
from tests.toys.drive import Warm


@pytest.fixture(scope="module")
def original(ratchet: Warm, memory: Path) -> Path:
    """A root with runs, to be read only."""
    return some_runs(ratchet, memory)


def run_of(root: Path, name: str) -> Measured:
    return measured(RunFolder(root, name))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`ratchet compare …` in this process, which has scipy already; returns what it prints, or raises what it refuses."""

    def compared(*words: str, root: Path) -> str:
        given = parser().parse_args(["compare", *words, "--root", str(root)])
        assert 0 == given.does(given)
        return capsys.readouterr().out

    return compared


Command = Callable[..., str]


def refused(command: Command, *words: str, root: Path, says: Sequence[str]) -> None:
    with pytest.raises(RatchetError) as error:
        command(*words, root=root)
    assert 2 == error.value.exit_code
    assert [] == [phrase for phrase in says if phrase not in str(error.value)], str(error.value)


def items(root: Path, name: str, index: int) -> dict[str, dict[str, Any]]:
    """A round's rows, read from the files themselves."""
    (report,) = {row.summary.report for row in run_of(root, name).rounds if row.index == index}
    lines = (root / ".ratchet" / "objects" / report / "items.jsonl").read_text().splitlines()
    return {row["problem_id"]: row for row in map(json.loads, lines)}


def test_the_rounds_of_a_run_are_set_against_its_first_and_agree_with_scipy_on_the_files(original: Path) -> None:
    found = compare([run_of(original, "slow")])
    assert ("pass_at_1", "pass_at_4") == found.metrics
    pairs = found.of("pass_at_1")
    assert [(0, index) for index in range(1, 9)] == [(pair.before.index, pair.after.index) for pair in pairs]
    expected = []
    for index in range(1, 9):
        before, after = items(original, "slow", 0), items(original, "slow", index)
        gained, lost = (sum(before[i]["correct"] is was and after[i]["correct"] is not was for i in before) for was in (False, True))
        differing = gained + lost
        continuity = chi2.sf((abs(gained - lost) - 1) ** 2 / differing, 1)
        expected.append(binomtest(gained, differing).pvalue if differing < 25 else continuity)
    assert pytest.approx(expected) == [pair.found.p for pair in pairs if pair.found]
    assert holm(expected) == [pair.p for pair in pairs]
    assert {8} == {pair.family for pair in pairs}


def test_a_rate_is_that_of_the_report(original: Path) -> None:
    (run,) = compare([run_of(original, "slow")], metrics=["pass_at_2"]).runs
    for row in run.rounds:
        for name in ("pass_at_1", "pass_at_2", "pass_at_4", "sampled_accuracy"):
            values = [item_value(item, name) for item in row.items.values()]
            assert pytest.approx(row.summary.metrics[name]) == sum(value for value in values if value is not None) / 40


def test_rounds_can_be_set_against_the_one_before(original: Path) -> None:
    pairs = compare([run_of(original, "slow")], against="previous").of("pass_at_1")
    assert [(index, index + 1) for index in range(8)] == [(pair.before.index, pair.after.index) for pair in pairs]
    with pytest.raises(InputError, match="--against is for the rounds of one run"):
        compare([run_of(original, "slow"), run_of(original, "seeded")], against="previous")


def test_runs_meet_at_equal_rounds_and_one_policy_is_no_comparison(original: Path) -> None:
    pairs = compare([run_of(original, "slow"), run_of(original, "seeded")]).of("pass_at_1")
    assert [(index, index) for index in range(9)] == [(pair.before.index, pair.after.index) for pair in pairs]
    assert ("same", {8}) == (pairs[0].verdict, {pair.family for pair in pairs[1:]}), "both begin with the same policy"
    assert "at round 0: seeded and slow are one and the same policy" == pairs[0].words


def test_at_an_equal_budget_each_run_stands_by_the_last_round_it_had_finished(original: Path) -> None:
    slow, probing = run_of(original, "slow"), run_of(original, "probing")
    assert [160 * index for index in range(9)] == [row.cost.samples for row in slow.rounds]
    assert [0, 480, 960] == [row.cost.samples for row in probing.rounds], "two temperatures of 40 problems are probed before 40 are sampled"
    found = compare([slow, probing], by="samples")
    meetings = [(pair.at, pair.before.index, pair.after.index) for pair in found.of("pass_at_1")]
    expected = [(0, 0, 0), (160, 1, 0), (320, 2, 0), (480, 3, 1), (640, 4, 1), (800, 5, 1), (960, 6, 2)]
    assert [(f"{samples} samples", mine, theirs) for samples, mine, theirs in expected] == meetings
    assert found.of("pass_at_1")[1].words.startswith("at 160 samples: ")


def test_seconds_are_of_the_attempts_times_what_they_were_given(original: Path) -> None:
    run = run_of(original, "slow")
    spent = [row.cost.cpu_seconds for row in run.rounds]
    assert spent == sorted(spent)
    assert "CPU-seconds" == compare([run, run_of(original, "seeded")], by="seconds").unit


def test_seconds_of_gpus_and_of_none_are_not_compared(original: Path) -> None:
    mine, other = run_of(original, "slow"), run_of(original, "seeded")
    for row in other.rounds:
        row.cost = dataclasses.replace(row.cost, gpu_seconds=5.0)
    with pytest.raises(InputError, match="different machines"):
        compare([mine, other], by="seconds")
    assert "GPU-seconds" == compare([other], by="seconds").unit


def test_a_budget_that_a_run_does_not_tell_is_refused(command: Command, original: Path) -> None:
    refused(command, "slow", "seeded", "--by", "tokens", root=original, says=["slow cannot be aligned by tokens", "--by round"])


def test_other_test_items_are_refused_and_so_is_another_evaluation(command: Command, original: Path) -> None:
    refused(command, "slow", "larger", root=original, says=["larger and slow are not comparable", "other test items"])
    refused(command, "slow", "cooler", root=original, says=["cooler and slow are not comparable", "temperature: 1 → 0.5"])
    assert "pass@1" in command("slow", "seeded", root=original), "how a verifier is cut into shards is no matter"


def test_another_verifier_or_judge_is_refused_with_what_differs(original: Path) -> None:
    run = run_of(original, "slow")
    one, other = run.rounds[0], run.rounds[1]
    assert "" == incomparable(one, other)
    verifier = dict(other.exam.verifier or {})
    other.exam = dataclasses.replace(other.exam, verifier={**verifier, "version": 2})
    assert "judged by another verifier (version: 1 → 2)" in incomparable(one, other)
    other.exam = dataclasses.replace(other.exam, verifier=verifier, judges={"judge": "d1"})
    assert "another model as judge" in incomparable(one, other)
    assert all("verifier" in pair.words for pair in compare([run]).pairs if pair.after is other), "a run with such a round is shown all the same"


PROCESS = {
    "component": "ratchet.components.verification.process.ProcessReward",
    "version": 1,
    "fields": {"weight": 1, "outcome": {"component": "x.Exact", "version": 1, "fields": {"marker": "#", "rows_per_shard": 5}}},
}


def test_what_only_rewards_does_not_make_two_measurements_differ() -> None:
    assert {"component": "x.Exact", "version": 1, "fields": {"marker": "#"}} == _found(_verdict(PROCESS))


class Walks:
    headline: ClassVar[tuple[str, ...]] = ("success", "spl")


def test_an_evaluation_says_its_own_headline(original: Path) -> None:
    walks = {"evaluation": {"_target_": f"{__name__}.Walks", "samples": 0}}
    assert ("success", "spl") == headline_of(walks)
    assert ("pass_at_1", "pass_at_4") == headline_of({"evaluation": {"_target_": "nowhere.Gone", "samples": 4}})
    assert ("pass_at_1",) == headline_of({})
    run = run_of(original, "slow")
    run.summary.config = walks
    for row in run.rounds:
        row.exam = dataclasses.replace(row.exam, evaluation={"component": f"{__name__}.Walks", "version": 1, "fields": {}})
        row.summary.metrics = {"success": 0.5, "spl": 0.4, "success.low": 0.4}
        row.items = {str(n): {"problem_id": str(n), "success": (n + row.index) % 2 == 0, "spl": n / 40} for n in range(40)}  # type: ignore[misc]
    found = compare([run])
    assert ("success", "spl") == found.metrics
    methods = [pair.found.method for pair in found.pairs if pair.found]
    assert {"McNemar", "McNemar, exact", "paired bootstrap"} == set(methods)


def test_a_problems_row_tells_what_it_can() -> None:
    row = {"correct": True, "sampled": 4, "sampled_correct": 1, "sampled_unique_correct": 1, "spl": 0.5, "bad": float("nan")}
    told = {name: item_value(row, name) for name in ("pass_at_1", "sampled_accuracy", "pass_at_2", "pass_at_4", "pass_at_4_s2", "spl")}
    assert {"pass_at_1": 1.0, "sampled_accuracy": 0.25, "pass_at_2": 0.5, "pass_at_4": 1.0, "pass_at_4_s2": 0.0, "spl": 0.5} == told
    assert {None} == {item_value(row, name) for name in ("pass_at_8", "length", "bad", "pass_at_2_s1")}


def test_an_unknown_metric_is_answered_with_those_there_are(command: Command, original: Path) -> None:
    refused(command, "slow", "--metric", "pass_at_9", root=original, says=["no round has the metric 'pass_at_9'", "sampled_accuracy"])
    assert "the rows per problem do not tell length" in command("slow", "--metric", "length", root=original)


def test_a_group_stands_for_its_runs(command: Command, original: Path) -> None:
    found = json.loads(command("group", "--json", root=original))
    assert ["group/seed=2", "group/seed=3"] == [run["name"] for run in found]
    assert ([], "group/seed=2") == (found[0]["comparisons"], found[1]["comparisons"][0]["against"])
    refused(command, "grou", root=original, says=["there is no run 'grou'"])


def test_a_run_that_another_process_holds_is_compared_all_the_same(command: Command, original: Path) -> None:
    with Lease.take(RunFolder(original, "slow")):
        assert "pass@1" in command("slow", "seeded", root=original)


def test_what_is_not_in_the_store_any_more_is_said(command: Command, original: Path, root: Path) -> None:
    shutil.copytree(original, root, dirs_exist_ok=True)
    lost = run_of(root, "slow").rounds[2].summary.report
    shutil.rmtree(root / ".ratchet" / "objects" / lost)
    text = " ".join(command("slow", root=root).split())
    assert f"no answer per problem is left of round 2 of slow: the artifact {lost[:8]} is not in the store" in text
    assert text.count("after correction for 7 comparisons") == 14, "the other rounds are compared"


def test_a_run_that_was_collected_says_what_it_said_before(ratchet: Warm, original: Path, root: Path) -> None:
    shutil.copytree(original, root, dirs_exist_ok=True)
    before = [pair.words for pair in compare([run_of(root, "slow")]).pairs]
    assert 0 == ratchet("gc", "--keep-last", "1", "--yes", root=root).code
    assert before == [pair.words for pair in compare([run_of(root, "slow")]).pairs]


def test_two_runs_of_eight_rounds_are_compared_within_two_seconds(original: Path) -> None:
    began = time.process_time()
    found = compare([run_of(original, "slow"), run_of(original, "seeded")], by="samples")
    assert time.process_time() - began < 2.0
    assert 9 == len(found.of("pass_at_4")), "all that round 8 had cost is the last budget"
