"""Each recipe, proved three times on a policy that costs nothing: it runs, it reruns the same, it resumes after a kill.

Work is counted by the last words of every attempt: a unit of work (a stage, or a shard of one) whose attempts say `published` twice
was done twice. A kill is a SIGKILL to the driver, or to a job, at a moment that the test names.
"""

import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet.infra.lease import Lease
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from tests.toys.drive import Die, Done, Warm, last_words, wait_until

RECIPES = ("star", "rest_em", "iterative_rft", "online_rft", "b_star")
NAME = "run"
APPEND = "ratchet.infra.ledger.Ledger.append"
SMALL = ("rounds=1", "evaluation.samples=0", "synthesis.rows_per_shard=6")
"""A round of few stages, some of them sharded."""
LOCAL = ("rounds=0", "evaluation.samples=0", "synthesis.rows_per_shard=6", "executor=local", "executor.slots=2")


@dataclass(frozen=True)
class Proof:
    """A recipe's run as it is when nothing disturbs it."""

    root: Path
    done: Done

    @property
    def results(self) -> list[tuple[Any, ...]]:
        return results(RunFolder(self.root, NAME).ledger)

    @property
    def units(self) -> set[str]:
        return set(last_words(self.root))


@pytest.fixture(scope="module")
def undisturbed(ratchet: Warm, memory: Path) -> Iterator[Callable[..., Proof]]:
    """The undisturbed run of a recipe with some settings, made once."""
    folder = Path(tempfile.mkdtemp(prefix="ratchet-proofs-", dir=memory))
    made: dict[tuple[str, ...], Proof] = {}

    def of(recipe: str, *words: str) -> Proof:
        key = (recipe, *words)
        if key not in made:
            root = folder / str(len(made))
            made[key] = Proof(root, ratchet.run(f"recipe={recipe}", *words, "--name", NAME, "--json", root=root))
        return made[key]

    yield of
    shutil.rmtree(folder)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_runs(undisturbed: Callable[..., Proof], recipe: str) -> None:
    proof = undisturbed(recipe)
    assert 0 == proof.done.code, proof.done.err
    run = proof.done.json()
    assert "finished" == run["status"]
    assert [0, 1, 2] == [row["round"] for row in run["rounds"]]
    curve = [row["metrics"]["pass_at_1"] for row in run["rounds"]]
    assert curve[0] < curve[-1], "it learns"
    assert all(digest for *_, digest in proof.results), "every stage is published"
    assert {("published",)} == {tuple(words) for words in last_words(proof.root).values()}, "every unit was worked at once"


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_reruns_the_same(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, recipe: str) -> None:
    assert 0 == ratchet.run(f"recipe={recipe}", "--name", NAME, root=root).code
    assert undisturbed(recipe).results == results(RunFolder(root, NAME).ledger)


def test_it_is_the_same_with_jobs_in_processes_of_their_own(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run("recipe=rest_em", *SMALL, "executor=local", "executor.slots=2", "--name", NAME, root=root).code
    assert undisturbed("rest_em", *SMALL).results == results(RunFolder(root, NAME).ledger)


def go_on(ratchet: Warm, root: Path, *words: str, die: Die | None = None) -> Done:
    """The same command again, or, where the run exists, what is the same and spares composing the config: `resume`."""
    if RunFolder(root, NAME).exists():
        return ratchet("resume", NAME, "--no-prefect", root=root, die=die)
    return ratchet.run(*words, "--name", NAME, root=root, die=die)


def killed_and_resumed(ratchet: Warm, root: Path, deaths: Iterator[Die], *words: str) -> int:
    """Go on again and again, each time with a driver that dies, until one reaches the end; how many died."""
    for died, die in enumerate(deaths):
        done = go_on(ratchet, root, *words, die=die)
        if done.code == 0:
            return died
        assert -9 == done.code, done.err
        assert not Lease.is_held(RunFolder(root, NAME)), "a dead driver holds nothing"
    raise AssertionError("it never ended")


def at_every(kind: str) -> Iterator[Die]:
    """Each driver dies at the first event of a kind that it appends: by turns just before and just after."""
    while True:
        yield from (Die(APPEND, word=kind, when=when) for when in ("before", "after"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_resumes_after_a_kill_at_each_stage_boundary(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, recipe: str) -> None:
    words = () if recipe == "b_star" else SMALL  # the longest whole, the others in one round
    whole = undisturbed(recipe, *words)
    died = killed_and_resumed(ratchet, root, at_every("published"), f"recipe={recipe}", *words)
    assert died >= len(whole.units), "every boundary was hit"
    assert whole.results == results(RunFolder(root, NAME).ledger)
    assert {identity: ["published"] for identity in whole.units} == last_words(root), "nothing was done twice"


def same_but_for_one(whole: Proof, root: Path) -> None:
    """The results of the undisturbed run; work was begun twice at no more than the unit that was hit, and finished twice nowhere."""
    assert whole.results == results(RunFolder(root, NAME).ledger)
    words = last_words(root)
    assert whole.units == set(words)
    assert all(found.count("published") <= 1 for found in words.values())
    again = {identity: found for identity, found in words.items() if len(found) > 1}
    assert len(again) <= 1, again
    assert all(found == ["none", "published"] for found in again.values()), again


def kill_once(ratchet: Warm, root: Path, die: Die, *words: str) -> bool:
    """Run until a death, run again; False if the run was over before."""
    dead = go_on(ratchet, root, *words, die=die)
    done = go_on(ratchet, root, *words)
    assert 0 == done.code, done.err
    return dead.code == -9


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("n", range(1, 100, 12))
def test_it_resumes_after_a_kill_at_any_event(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, n: int, when: str) -> None:
    """One kill in a run's life, at every twelfth of its events, whatever they say."""
    whole = undisturbed("b_star", *SMALL)
    kill_once(ratchet, root, Die(APPEND, n, when), "recipe=b_star", *SMALL)
    same_but_for_one(whole, root)


@pytest.mark.parametrize("n", [1, 12, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 200])
def test_it_resumes_after_a_kill_between_any_two_writes(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, n: int) -> None:
    """At calls of fsync: in the middle of publishing, of recording a job, of appending an event."""
    whole = undisturbed("b_star", *SMALL)
    assert kill_once(ratchet, root, Die("os.fsync", n), "recipe=b_star", *SMALL)
    same_but_for_one(whole, root)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_resumes_after_a_kill_in_the_middle_of_a_stage(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, recipe: str) -> None:
    whole = undisturbed(recipe, *SMALL)
    for n in (1, 50, 75, 120):  # of the moments at which the toy's parts can die: in synthesis, verification, training
        where = root / str(n)
        assert kill_once(ratchet, where, Die("tests.toys.parts.crash_point", n), f"recipe={recipe}", *SMALL)
        same_but_for_one(whole, where)
        assert 1 == sum("none" in words for words in last_words(where).values()), "the stage that was hit was tried again"


@pytest.mark.parametrize("verb", ["synthesize", "verify"])
def test_a_job_that_is_killed_fails_its_stage_and_the_next_command_tries_again(
    undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, tmp_path: Path, verb: str
) -> None:
    words = ("recipe=rest_em", *LOCAL, "--name", NAME)
    failed = ratchet.run(*words, root=root, env={"RATCHET_TEST_DIE": f"{verb}@{tmp_path / 'once'}"})
    assert 1 == failed.code
    assert "killed by signal 9" in failed.err
    assert "Traceback" not in failed.err
    assert "failed" == ratchet("show", NAME, "--json", root=root).json()["status"]
    assert 0 == ratchet.run(*words, root=root).code
    same_but_for_one(undisturbed("rest_em", *LOCAL[:3]), root)


@pytest.mark.parametrize("n", [1, 4, 5, 6])
def test_a_job_outlives_its_driver_and_the_next_takes_it_up(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path, n: int) -> None:
    """The driver dies as soon as the n-th batch of jobs is let go; the next one attaches to that job, or collects what it published."""
    words = ("recipe=rest_em", *LOCAL, "--name", NAME)
    assert -9 == ratchet.run(*words, root=root, die=Die("ratchet.infra.executors.Local.release", n, "after")).code
    assert 0 == ratchet.run(*words, root=root).code
    assert undisturbed("rest_em", *LOCAL[:3]).results == results(RunFolder(root, NAME).ledger)
    assert each_once(root)


def each_once(root: Path) -> bool:
    """Whether every unit was worked at once, by jobs whose last words may come after their driver's."""
    wait_until(lambda: all("published" in found for found in last_words(root).values()), "the jobs' last words")
    return all(found.count("published") == 1 and {"published", "never released"} >= set(found) for found in last_words(root).values())


SLOW = ("recipe=rest_em", *LOCAL, "synthesis.seconds=0.25", "--name", NAME)


def test_a_driver_attaches_to_the_jobs_that_the_dead_one_left(ratchet: Warm, root: Path) -> None:
    assert -9 == ratchet.run(*SLOW, root=root, die=Die("ratchet.infra.executors.Local.release", 5, "after")).code
    done = ratchet.run(*SLOW, root=root)
    assert 0 == done.code
    assert "attached to round 0 · evaluation · synthesize · shard 1/2" in done.err
    assert 2 == Counter(event["kind"] for event in RunFolder(root, NAME).ledger)["attached"]
    assert each_once(root)


def test_a_job_that_lives_is_waited_for_even_by_another_executor(ratchet: Warm, root: Path) -> None:
    """The executor is an operation: it may change while a job of the former one is at work."""
    assert -9 == ratchet.run(*SLOW, root=root, die=Die("ratchet.infra.executors.Local.release", 5, "after")).code
    done = ratchet("resume", NAME, "executor=inline", "--no-prefect", root=root)
    assert 0 == done.code, done.err
    assert 2 == Counter(event["kind"] for event in RunFolder(root, NAME).ledger)["attached"]
    assert {("published",)} == {tuple(found) for found in last_words(root).values()}, "no second attempt was begun"


def test_of_two_drivers_of_one_run_one_works_and_the_other_says_who(ratchet: Warm, root: Path) -> None:
    going = [ratchet.start("run", *toy, "--no-prefect", root=root) for toy in 2 * [with_toys(*SLOW)]]
    done = [one.wait() for one in going]
    assert [0, 3] == sorted(one.code for one in done)
    (refused,) = (one for one in done if one.code == 3)
    (worker,) = (one.pid for one, how in zip(going, done, strict=True) if how.code == 0)
    assert f"the run {NAME} is held by process {worker} on {os.uname().nodename}" in refused.err
    assert each_once(root)


def with_toys(*words: str) -> tuple[str, ...]:
    from tests.toys.drive import TOYS

    return (*TOYS, *words)


def test_two_runs_that_share_stages_make_each_once(ratchet: Warm, root: Path) -> None:
    words = with_toys(*SLOW[:-2])
    going = [ratchet.start("run", *words, "--no-prefect", "--name", name, root=root) for name in ("one", "other")]
    assert [0, 0] == [one.wait().code for one in going]
    assert results(RunFolder(root, "one").ledger) == results(RunFolder(root, "other").ledger)
    assert each_once(root)


def test_a_driver_that_is_asked_to_end_detaches(ratchet: Warm, root: Path) -> None:
    going = ratchet.start("run", *with_toys(*SLOW), "--no-prefect", root=root)
    wait_until(lambda: any("synthesize" in e["title"] for e in RunFolder(root, NAME).ledger if e["kind"] == "attempt"), "the synthesis")
    os.kill(going.pid, signal.SIGTERM)
    done = going.wait()
    assert (130, False) == (done.code, "Traceback" in done.err)
    assert "detached" in done.err
    assert 0 == ratchet.run(*SLOW, root=root).code
    assert each_once(root)


def test_a_finished_run_asked_again_does_nothing(undisturbed: Callable[..., Proof], ratchet: Warm) -> None:
    proof = undisturbed("star")
    before = {path: path.stat().st_mtime_ns for path in (proof.root / ".ratchet" / "objects").rglob("*")}
    done = ratchet.run("recipe=star", "--name", NAME, "--json", root=proof.root)
    assert (0, "finished") == (done.code, done.json()["status"])
    assert before == {path: path.stat().st_mtime_ns for path in (proof.root / ".ratchet" / "objects").rglob("*")}
    kinds = [event["kind"] for event in RunFolder(proof.root, NAME).ledger]
    assert ["driver", "finished"] == kinds[kinds.index("finished") + 1 :], "the second turn is known, and made nothing"


def test_more_rounds_go_on_from_the_last(undisturbed: Callable[..., Proof], ratchet: Warm, root: Path) -> None:
    for rounds in (1, 2):
        assert 0 == ratchet.run("recipe=online_rft", f"rounds={rounds}", "--name", NAME, root=root).code
    assert undisturbed("online_rft").results == results(RunFolder(root, NAME).ledger)
    assert each_once(root)


def test_the_recipes_differ_in_what_they_inherit(undisturbed: Callable[..., Proof]) -> None:
    """The toy counts steps, and goes on counting only where its training state is inherited."""

    def steps(recipe: str) -> list[float]:
        run = undisturbed(recipe).done.json()
        return [stage["metrics"]["steps"] for stage in run["stages"] if stage["verb"] == "train"]

    kept = [row["kept"] for row in undisturbed("online_rft").done.json()["rounds"][1:]]
    assert [kept[0], kept[0] + kept[1]] == steps("online_rft")
    assert kept == steps("iterative_rft")
    policies = {recipe: json.dumps(undisturbed(recipe).done.json()["rounds"][2]["roles"]["policy"]) for recipe in RECIPES}
    assert 5 == len(set(policies.values())), "no two recipes make the same policy"
