"""Two roles in one report."""

import pytest

from ratchet.components.evaluation.flywheel import Flywheel
from ratchet.components.evaluation.navigation import Navigation
from ratchet.components.verification.followed import Followed
from ratchet.errors import InputError
from ratchet.records import Rollout
from tests.toys.maze import Maze

EPISODE = {"colours": ["red", "green", "blue"], "goal": 1}
EXAM = Navigation(environment=Maze(), samples=0, temperature=1.0, pictures=0, resamples=100)


def rollout(problem, prompt, actions, **fields):
    return Rollout(problem_id=problem, sample=0, prompt=prompt, completion=actions, episode=EPISODE, finished=actions.endswith("stop"), **fields)


GREEDY = [rollout("p", "go to green", "1.1 1.2 stop"), rollout("q", "go to green", "0.1 0.2 stop")]
WALKS = [
    rollout("p/0", "stop at the green", "1.1 1.2 stop", reference="1.1 1.2 stop"),
    rollout("q/0", "go past the corridor , stop at the green", "2.1 1.1 1.2 stop", reference="1.1 1.2 stop"),
    rollout("q/1", "stop at the red", "0.1 0.2 stop", reference="1.1 1.2 stop"),
]


def measured(walks=WALKS):
    return Flywheel(navigation=EXAM).evaluate(GREEDY, list(Followed(environment=Maze()).verify(walks, roles={})))


def test_the_navigator_is_measured_as_ever():
    alone = EXAM.evaluate(GREEDY, []).metrics
    assert alone == {name: value for name, value in measured().metrics.items() if not name.startswith("generator_")}
    assert 0.5 == alone["success"]


def test_the_generator_is_measured_by_how_its_instructions_were_followed():
    found = measured().metrics
    assert ((1 + 0.5) / 2, (1 + 0.25) / 2) == (found["generator_success"], found["generator_spl"]), "means over paths"
    assert (4 + (8 + 4) / 2) / 2 == found["generator_words"]
    assert 0 < found["generator_ndtw"] < 1
    for name in ("success", "spl", "ndtw", "words"):
        low, value, high = (found[f"generator_{name}{end}"] for end in (".low", "", ".high"))
        assert low <= value <= high


def test_each_problem_has_what_was_said_of_its_path():
    first, second = measured().items
    assert (["stop at the green"], [1.0], 1.0) == (first["instructions"], first["followed"], first["spl"])
    assert ([walk.prompt for walk in WALKS[1:]], [0.5, 0.0]) == (second["instructions"], second["followed"])


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="no walk on the generator's instructions"):
        Flywheel(navigation=EXAM).evaluate(GREEDY, [])
    with pytest.raises(InputError, match="has no spl"):
        Flywheel(navigation=EXAM).evaluate(GREEDY, [rollout("p/0", "go", "1.1 1.2 stop", outcome="correct")])
    with pytest.raises(InputError, match="samples=0"):
        Flywheel(navigation=Navigation(environment=Maze(), samples=2, temperature=1.0))
