"""The recipes of graph agents, proved as the others are (`test_three_proofs`), on agents that learn within seconds in a maze of a few places.

And what changes with a dial: a plan names the first stage that it reaches, and nothing that does not depend on it is made again.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.flows.compose import compose
from ratchet.flows.plan import Line, plan
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from tests.infra.test_tracking import Shown
from tests.recipes.test_three_proofs import APPEND, NAME, Proof, kill_once, killed_and_resumed, same_but_for_one
from tests.toys.drive import HOUSE, Die, Done, Warm, last_words

RECIPES = ("imitation", "sid", "srdf")
TOYS = HOUSE / "tests" / "toys" / "configs"
SMALL = {
    "imitation": ("evaluation.pictures=0", "evaluation.resamples=10"),
    "sid": ("evaluation.pictures=0", "evaluation.resamples=10"),
    "srdf": ("evaluation.navigation.pictures=0", "evaluation.navigation.resamples=10", "generator.training.steps=20"),
}


class InTheMaze(Warm):
    """`run` is that of a recipe in the maze."""

    def run(self, *words: str, root: Path, **more: Any) -> Done:
        return self("run", "--config-dir", str(TOYS), "experiment=corridors", *words, "--no-prefect", root=root, **more)


def words_of(recipe: str) -> tuple[str, ...]:
    return (f"recipe={recipe}", *SMALL[recipe])


@pytest.fixture(scope="module")
def maze(memory: Path) -> Iterator[InTheMaze]:
    warm = InTheMaze(memory, "tests.toys.drive_agents")
    yield warm
    warm.close()


@pytest.fixture(scope="module")
def undisturbed(maze: InTheMaze, memory: Path) -> Iterator[Callable[[str], Proof]]:
    folder = Path(tempfile.mkdtemp(prefix="ratchet-maze-", dir=memory))
    made: dict[str, Proof] = {}

    def of(recipe: str) -> Proof:
        if recipe not in made:
            made[recipe] = Proof(folder / recipe, maze.run(*words_of(recipe), "--name", NAME, "--json", root=folder / recipe))
        return made[recipe]

    yield of
    shutil.rmtree(folder)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_runs(undisturbed: Callable[[str], Proof], recipe: str) -> None:
    proof = undisturbed(recipe)
    assert 0 == proof.done.code, proof.done.err
    run = proof.done.json()
    assert ("finished", [0, 1]) == (run["status"], [row["round"] for row in run["rounds"]])
    first = [stage["metrics"] for stage in run["stages"] if stage["verb"] == "train" and stage["round"] == 0]
    assert all(metrics["loss"] < metrics["first_loss"] / 2 for metrics in first), "it learns"
    assert all(digest for *_, digest in proof.results), "every stage is published"
    assert {("published",)} == {tuple(words) for words in last_words(proof.root).values()}, "every unit was worked at once"


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_reruns_the_same(undisturbed: Callable[[str], Proof], maze: InTheMaze, root: Path, recipe: str) -> None:
    assert 0 == maze.run(*words_of(recipe), "--name", NAME, root=root).code
    assert undisturbed(recipe).results == results(RunFolder(root, NAME).ledger)


def at_random_boundaries(seed: str) -> Iterator[Die]:
    """Each driver dies just before or just after it says that one of the next few stages is published."""
    draws = random.Random(seed)
    while True:
        yield Die(APPEND, n=draws.randint(1, 5), when=draws.choice(("before", "after")), word="published")


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_resumes_after_kills_at_random_stages(undisturbed: Callable[[str], Proof], maze: InTheMaze, root: Path, recipe: str) -> None:
    whole = undisturbed(recipe)
    died = killed_and_resumed(maze, root, at_random_boundaries(recipe), *words_of(recipe))
    assert died >= len(whole.units) // 5, "a driver lives for five stages at most"
    assert whole.results == results(RunFolder(root, NAME).ledger)
    assert {identity: ["published"] for identity in whole.units} == last_words(root), "nothing was done twice"


MOMENTS = [
    ("sid", "ratchet.components.synthesis.explorer.explore", 2),
    ("srdf", "ratchet.components.synthesis.speaking.sights_of", 5),
    ("srdf", "ratchet.components.self_training.session.Session.record", 11),
    ("srdf", "ratchet.components.self_training.session.Session.record", 37),
    ("srdf", "ratchet.components.verification.followed.ndtw", 3),
]
"""In the middle of a walk, of the speaker's telling and learning, of the navigator's learning, of judging."""


@pytest.mark.parametrize(("recipe", "where", "n"), MOMENTS)
def test_it_resumes_after_a_kill_in_the_middle_of_a_stage(
    undisturbed: Callable[[str], Proof], maze: InTheMaze, root: Path, recipe: str, where: str, n: int
) -> None:
    assert kill_once(maze, root, Die(where, n), *words_of(recipe))
    same_but_for_one(undisturbed(recipe), root)
    assert 1 == sum("none" in words for words in last_words(root).values()), "the stage that was hit was tried again"


def planned(root: Path, recipe: str, *words: str) -> list[Line]:
    return plan(RunFolder(root, NAME), compose(["experiment=corridors", *words_of(recipe), *words], TOYS)).lines


CHANGES = [
    ("sid", "selection.max_per_problem=1", "round 0 · select", "max_per_problem: None → 1"),
    ("imitation", "training.learning_rate=0.02", "round 0 · train", "learning_rate: 0.01 → 0.02"),
    ("srdf", "generator.selection.spl=0.5", "round 0 · select #2", "spl: 1 → 0.5"),
    ("srdf", "selection.ndtw=0.5", "round 0 · select #3", "ndtw: 0.9 → 0.5"),
    ("srdf", "generator.training.steps=21", "round 0 · train", "steps: 20 → 21"),
    ("srdf", "evaluation.navigation.resamples=11", "round 0 · evaluation · evaluate", "resamples: 10 → 11"),
]


def test_its_pictures_are_seen_in_mlflow(maze: InTheMaze, root: Path) -> None:
    words = ("recipe=sid", "evaluation.resamples=10", "evaluation.pictures=2", "training.steps=8", "rounds=0", "tracker=mlflow")
    done = maze.run(*words, "--name", NAME, root=root)
    assert 0 == done.code, done.err
    shown = Shown(RunFolder(root, NAME))
    (child,) = shown.children
    names = [Path(file.path).name for file in shown.client.list_artifacts(child.info.run_id, "report")]
    assert ["trajectory-1-", "trajectory-2-"] == [name[:13] for name in names]
    picture = Path(shown.client.download_artifacts(child.info.run_id, f"report/{names[0]}")).read_bytes()
    assert b"\x89PNG\r\n\x1a\n" == picture[:8]
    assert child.data.metrics.keys() >= {"success", "spl"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_plan_of_what_is_there_reuses_all_of_it(undisturbed: Callable[[str], Proof], recipe: str) -> None:
    assert {"reuse"} == {line.fate for line in planned(undisturbed(recipe).root, recipe)}


@pytest.mark.parametrize(("recipe", "change", "title", "why"), CHANGES)
def test_a_plan_names_what_a_dial_reaches_first(undisturbed: Callable[[str], Proof], recipe: str, change: str, title: str, why: str) -> None:
    lines = planned(undisturbed(recipe).root, recipe, change)
    first = next(line for line in lines if line.fate == "run")
    assert title == first.title
    assert why in first.why
    assert {"reuse"} == {line.fate for line in lines[: lines.index(first)]}


def test_a_changed_dial_makes_again_only_what_depends_on_it(undisturbed: Callable[[str], Proof], maze: InTheMaze, root: Path) -> None:
    """The generator's own training leaves the seed, the pool and the test paths as they are; and where it says what it said before, also
    the navigator that reads it."""
    shutil.copytree(undisturbed("srdf").root, root, dirs_exist_ok=True)
    known = {identity for *_, identity, _ in undisturbed("srdf").results}
    done = maze.run(*words_of("srdf"), "generator.training.steps=21", "--name", "other", "--json", root=root)
    assert 0 == done.code, done.err
    stages = done.json()["stages"]
    again = [stage["title"] for stage in stages if stage["identity"] in known]
    assert {
        f"round 0 · {name}" for name in ("seed · propose #3", "shortest paths · synthesize", "shortest paths · synthesize #2", "select", "select #2")
    } <= set(again)
    made = [stage["title"] for stage in stages if stage["identity"] not in known]
    assert {"round 0 · train", "round 0 · synthesize #3", "round 1 · train", "round 1 · synthesize #2"} <= set(made)
    read = {stage["title"]: stage["digest"] for stage in undisturbed("srdf").done.json()["stages"]}
    same = {stage["title"] for stage in stages if stage["digest"] == read[stage["title"]]}
    assert ("round 0 · select #3" in same) == ("round 0 · train #2" in again)


def test_the_flywheel_has_two_roles_that_both_learn(undisturbed: Callable[[str], Proof]) -> None:
    first, last = (row["roles"] for row in undisturbed("srdf").done.json()["rounds"])
    assert {"policy", "generator", "base", "base_generator"} == set(first)
    assert (first["policy"], first["generator"]) == (last["base"], last["base_generator"])
    assert 4 == len({json.dumps(role) for role in last.values()})
    metrics = undisturbed("srdf").done.json()["rounds"][-1]["metrics"]
    assert {"success", "spl", "generator_success", "generator_spl", "generator_ndtw", "generator_words"} <= set(metrics)


def test_a_generator_without_a_seed_begins_by_chance_and_learns_what_could_be_followed(
    undisturbed: Callable[[str], Proof], maze: InTheMaze, root: Path
) -> None:
    shutil.copytree(undisturbed("srdf").root, root, dirs_exist_ok=True)
    done = maze.run(*words_of("srdf"), "generator.seeded=false", "--name", "other", "--json", root=root)
    assert 0 == done.code, done.err
    stages = {stage["title"]: stage for stage in done.json()["stages"]}
    first, last = (row["roles"] for row in done.json()["rounds"])
    assert stages["round 0 · create #2"]["digest"] == first["generator"]["digest"]
    assert stages["round 1 · train"]["digest"] == last["generator"]["digest"]
    followed = stages["round 1 · select #2"]
    assert 0 < followed["rows"] <= stages["round 1 · verify"]["metrics"]["correct"], "nothing of the seed"
