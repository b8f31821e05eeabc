"""Caps end a run at a stage boundary, say what was used, and let it go on; patience ends one that gains nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import InputError
from ratchet.flows.budget import Budget, Patience, checked
from ratchet.flows.compose import OPERATIONS, compose, science_hash
from ratchet.flows.devices import devices
from ratchet.flows.monitors import warnings_of
from ratchet.flows.summary import summary_of
from ratchet.infra.ledger import Ledger, results
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from ratchet.records import Rollout
from ratchet.stages import ITEMS
from ratchet.yields import yields
from tests.toys.drive import HOUSE, Warm

TOYS = HOUSE / "tests" / "toys" / "configs"
NAME = "mine"
WORDS = ("recipe=rest_em", "rounds=2", "evaluation.samples=0", "--name", NAME)


def run_of(root: Path, name: str = NAME) -> RunFolder:
    return RunFolder(root, name)


def stops(root: Path) -> list[str]:
    return [event["reason"] for event in run_of(root).ledger if event["kind"] == "stopped"]


def used(root: Path, name: str = NAME, **caps: float) -> dict[str, float]:
    budget = Budget(name, caps, run_of(root, name).ledger, LocalStore(state=root / ".ratchet"))
    budget.count()
    return budget.used


def test_a_cap_ends_the_run_at_a_stage_boundary_and_a_higher_one_goes_on(ratchet: Warm, root: Path) -> None:
    whole = root / "whole"
    assert 0 == ratchet.run(*WORDS, root=whole).code
    done = ratchet.run(*WORDS, "budget.samples=50", root=root)
    assert 0 == done.code, done.err
    assert ["attempt"] * 0 == [e for e in run_of(root).ledger if e["kind"] == "failed"]
    assert ("stopped", 60.0) == (summary_of(run_of(root)).status, used(root)["samples"]), (
        "12 test problems, and 12 of 4 samples: the stage is finished"
    )
    assert stops(root)[0].startswith("the budget of 50 samples is spent: used 60 samples")
    assert "stopped before round 1 · verify" in stops(root)[0]
    assert f"ratchet resume {NAME} budget.samples=50` with a higher cap" in " ".join(done.out.split())
    assert 0 == ratchet.run(*WORDS, "budget.samples=50", root=root).code
    assert 60.0 == used(root)["samples"], "the same cap again makes nothing"
    assert 0 == ratchet("resume", NAME, "budget.samples=10000", "--config-dir", str(TOYS), "--no-prefect", root=root).code
    assert "finished" == summary_of(run_of(root)).status
    assert results(run_of(whole).ledger) == results(run_of(root).ledger), "as if it had never been stopped"


@pytest.mark.parametrize(("cap", "unit"), [("tokens=100", "tokens"), ("bytes=4000", "bytes"), ("cpu_hours=0", "cpu-hours"), ("seconds=0", "seconds")])
def test_every_cap_stops_and_says_what_was_used(ratchet: Warm, root: Path, cap: str, unit: str) -> None:
    assert 0 == ratchet.run(*WORDS, f"budget.{cap}", root=root).code
    (reason,) = stops(root)
    assert reason.startswith(f"the budget of {cap.partition('=')[2]} {unit} is spent: used ")


def test_a_cap_on_rounds_ends_it_between_rounds(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*WORDS, "budget.rounds=1", root=root).code
    assert [0, 1] == [row.round for row in summary_of(run_of(root)).rounds]
    assert "the budget of 1 rounds is spent" in stops(root)[0]
    assert 0 == ratchet.run(*WORDS, root=root).code
    assert [0, 1, 2] == [row.round for row in summary_of(run_of(root)).rounds]


def test_what_was_found_and_not_made_costs_nothing(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*WORDS, root=root).code
    done = ratchet.run(*WORDS[:-1], "other", "budget.samples=1", "budget.cpu_hours=0.000001", root=root)
    assert (0, "finished") == (done.code, summary_of(run_of(root, "other")).status)
    assert 0.0 == used(root, "other", bytes=1)["samples"] == used(root, "other", bytes=1)["bytes"]
    mine = used(root, bytes=1)
    assert mine["samples"] == 3 * 12 + 2 * 48
    assert mine["bytes"] > 10_000
    assert mine["seconds"] > 0


def test_what_was_made_is_counted_once_shards_or_not(ratchet: Warm, root: Path) -> None:
    """A shard's seconds are part of its stage's."""
    assert 0 == ratchet.run(*WORDS, root=root).code
    events = list(run_of(root).ledger)
    stages = {event["identity"] for event in events if event["kind"] == "stage"}
    seconds = sum(event["seconds"] for event in events if event["kind"] == "published" and event["identity"] in stages)
    assert any(event["kind"] == "published" and event["identity"] not in stages for event in events), "there were shards"
    assert pytest.approx(seconds / 3600) == used(root)["cpu_hours"]


def test_seconds_are_those_with_a_driver(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for at, kind in ((50, "advanced"), (100, "driver"), (130, "stage"), (1000, "driver"), (1010, "stage")):
        fields = {"operations": {}, "round": 0, "verb": "train", "identity": "x"}
        ledger.append(kind, at=at, **fields)
    budget = Budget(NAME, {}, ledger, LocalStore(state=tmp_path / ".ratchet"), clock=lambda: 1025)
    budget.count()
    assert (30 + 25, 0) == (budget.used["seconds"], budget.used["rounds"]), "what a fork took over is not its own"


def test_what_an_executor_gives_a_job_is_what_it_costs() -> None:
    slurm = {"resources": {"default": {"cpus_per_task": 2}, "train": {"cpus_per_task": 8, "gpus_per_node": 4, "mem_gb": None}}}
    unset = {"resources": {"default": {"cpus_per_task": 4, "gpus_per_node": None}, "train": {"gpus_per_node": 2, "cpus_per_task": None}}}
    assert [(4, 0), (4, 2)] == [devices(unset, verb, gpu_here=True) for verb in ("verify", "train")]
    assert [(2, 0), (8, 4)] == [devices(slurm, verb, gpu_here=True) for verb in ("verify", "train")]
    here = {"cpus_per_task": 3}
    found = [devices(here, verb, gpu_here=gpu) for verb, gpu in (("select", True), ("train", True), ("train", False))]
    assert [(3, 0), (3, 1), (3, 0)] == found


@pytest.mark.parametrize("budget", [{"samples": -1}, {"samples": "many"}, {"apples": 1}, {"bytes": True}])
def test_a_budget_that_cannot_be_is_refused(budget: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="budget"):
        checked(budget)


def test_budget_and_patience_are_operations() -> None:
    free = compose(["experiment=toy"], TOYS)
    capped = compose(["experiment=toy", "budget.tokens=5", "patience=2"], TOYS)
    assert {"budget", "patience"} <= OPERATIONS
    assert science_hash(free) == science_hash(capped)
    with pytest.raises(InputError, match="patience has a wrong value"):
        compose(["patience=0"])


# patience


def reports(store: LocalStore, rounds: Sequence[int], *, of: int = 100) -> list[str]:
    """A report a round, with so many of the items right."""
    found = []
    for index, right in enumerate(rounds):
        draft = store.draft(f"{index:032x}", "t")
        rows = [{"problem_id": str(n), "correct": n < right} for n in range(of)]
        (draft / ITEMS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        store.publish(draft, identity=f"{index:032x}", kind="report", rows=of, metrics={}, producer={}, inputs={}, made={})
        found.append(f"{index:032x}")
    return found


@pytest.mark.parametrize(
    ("rounds", "over"),
    [([50, 70], False), ([50, 51, 52], True), ([50, 51, 70], False), ([50, 70, 71, 72], True), ([70, 50, 50], True), ([50, 51], False)],
)
def test_no_significant_gain_in_two_rounds_is_enough(tmp_path: Path, rounds: Sequence[int], over: bool) -> None:
    store = LocalStore(state=tmp_path / ".ratchet")
    said = Patience(2, "pass_at_1", store).over(reports(store, rounds))
    assert over == bool(said)
    assert said is None or said.startswith("no significant gain of pass_at_1 in 2 rounds")


def test_patience_ends_a_run_that_stands_still_and_one_that_is_finished_stays_so(ratchet: Warm, root: Path) -> None:
    words = (*WORDS, "training.gain=0")
    assert 0 == ratchet.run(*words, "patience=1", root=root).code
    assert ([0, 1], "stopped") == ([row.round for row in summary_of(run_of(root)).rounds], summary_of(run_of(root)).status)
    assert "patience=1" in stops(root)[0]
    assert 0 == ratchet.run(*words, root=root).code
    assert 0 == ratchet.run(*words, "patience=1", root=root).code
    assert ([0, 1, 2], "finished") == ([row.round for row in summary_of(run_of(root)).rounds], summary_of(run_of(root)).status)


# monitors


def rollout(problem: str, sample: int, right: bool, **more: Any) -> Rollout:
    fields = {"completion": f"#{sample}", "outcome": "correct" if right else "wrong", "reward": float(right)}
    return Rollout(**{"problem_id": problem, "sample": sample, "prompt": problem, **fields, **more})


def test_a_rounds_yield_is_counted_by_problem() -> None:
    rows = [rollout("a", n, True) for n in range(2)] + [rollout("b", n, False, completion="same", entropy=0.5) for n in range(2)]
    rows += [rollout("c", n, n == 0) for n in range(2)] + [rollout("d", 0, True, source="teacher")]
    told = {"problems": 3, "own": 6, "never_solved": 1, "always_solved": 1, "telling": 1, "distinct": 5, "unhealthy": 0, "entropies": 2}
    assert {**told, "entropy_sum": 1.0} == yields(rows)


def warned(verb: str, **metrics: float) -> str:
    return "; ".join(warnings_of([(verb, f"round 1 · {verb}", metrics)]))


FINE = {"problems": 100, "own": 400, "never_solved": 20, "always_solved": 20, "telling": 60, "distinct": 300, "unhealthy": 0}


def test_monitors_warn_of_what_they_say_and_are_silent_otherwise() -> None:
    assert "" == warned("select", **FINE)
    assert "never solved: easier problems" in warned("select", **FINE | {"never_solved": 90})
    assert "always solved" in warned("select", **FINE | {"always_solved": 90})
    assert "tells rollouts apart on 2 %" in warned("select", **FINE | {"telling": 2})
    assert "25 % of the rollouts are different texts" in warned("select", **FINE | {"distinct": 100})
    assert "entropy 0.010 nats" in warned("select", **FINE | {"entropies": 400, "entropy_sum": 4})
    assert "timed out or crashed on 5 %" in warned("select", **FINE | {"unhealthy": 20})
    assert "no rollout was found correct" in warned("verify", rollouts=10, correct=0, reward_sum=0)
    assert "accepts anything" in warned("verify", rollouts=10, correct=10, reward_sum=10)
    assert "" == warned("verify", rollouts=10, correct=5, reward_sum=5)
    assert "lower learning_rate" in warned("train", grad_norm_last=50.0)
    assert "chosen and rejected" in warned("train", margin_last=-0.1)
    assert [] == warnings_of([("verify", "round 1 · evaluation · verify", {"rollouts": 10, "correct": 0})]), "another purpose than the round"


def test_warnings_are_shown(ratchet: Warm, root: Path) -> None:
    done = ratchet.run(*WORDS, "rounds=1", "policy.skill=0.02", root=root)
    assert 0 == done.code
    assert "of the problems are never solved" in done.err
    assert "of the problems are never solved" in ratchet("show", NAME, root=root).out
