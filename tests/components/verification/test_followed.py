"""Walks on instructions, judged by the path that was told."""

from math import exp, inf

import pytest

from ratchet.components.verification.followed import Followed
from ratchet.errors import InputError
from ratchet.records import Rollout
from tests.toys.maze import Maze

EPISODE = {"colours": ["red", "green", "blue"], "goal": 1}


def walked(actions, path="1.1 1.2 stop", **fields):
    finished = actions.endswith("stop")
    given = Rollout(problem_id="p/0", sample=0, prompt="stop at the green", completion=actions, reference=path, finished=finished, episode=EPISODE)
    (found,) = Followed(environment=Maze(), **fields).verify([given], roles={})
    return found


@pytest.mark.parametrize(
    ("actions", "outcome", "spl", "warped"),
    [
        ("1.1 1.2 stop", "correct", 1.0, 0),
        ("2.1 1.1 1.2 stop", "correct", 0.5, 5**0.5),  # only 2.1 is off the path, as far as from the hub
        ("1.1 stop", "wrong", 0.0, 1),
        ("1.1 1.2", "wrong", 0.0, 0),  # there, but it never said so
        ("stop", "wrong", 0.0, 2**0.5 + (2**0.5 + 1)),
        ("1.2 stop", "unparsed", 0.0, inf),
    ],
)
def test_spl_and_ndtw_are_against_the_path_told(actions, outcome, spl, warped):
    found = walked(actions)
    assert (outcome, spl, spl) == (found.outcome, found.reward, found.scores["spl"])
    assert pytest.approx(exp(-warped / (3 * 3.0))) == found.scores["ndtw"], "three places, each within 3 of its own"


def test_a_walk_as_long_as_a_detour_that_was_told_is_as_good():
    """The environment's own SPL would call both half as good as the shortest way."""
    told = "2.1 1.1 1.2 stop"
    assert (1.0, {"spl": 1.0, "ndtw": 1.0}) == (walked(told, path=told).reward, walked(told, path=told).scores)
    assert 1.0 == walked("1.1 1.2 stop", path=told).reward, "shorter than the path is not better than it"


def test_ndtw_is_by_ways_and_not_through_walls():
    """0.2 and 1.2 are 1 apart on the plan, but one has to go back to the hub, which is 1 from 0.1 and √2 from 1.1."""
    first, last = 1 + 2**0.5, 2 + 2**0.5 + 1
    assert pytest.approx(exp(-(first + last) / (3 * 3.0))) == walked("0.1 0.2 stop").scores["ndtw"]
    assert pytest.approx(exp(-(first + last) / (3 * 30.0))) == walked("0.1 0.2 stop", near=30.0).scores["ndtw"]


def test_what_was_not_told_cannot_be_followed():
    with pytest.raises(InputError, match="the reference of problem p/0 is no path"):
        walked("1.1 1.2 stop", path="9.9 stop")
    for wrong in ({"near": 0.0}, {"rows_per_shard": 0}):
        with pytest.raises(InputError):
            Followed(environment=None, **wrong)
