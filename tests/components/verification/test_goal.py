"""Walks judged by where they end."""

import json

import pytest

from ratchet.components.environments.vln_graph import VLNGraph
from ratchet.components.verification.goal import ReachedGoal
from ratchet.errors import InputError
from ratchet.records import Rollout


@pytest.fixture
def environment(tmp_path):
    beside = {"a": ["b"], "b": ["a", "c"], "c": ["b"], "x": []}
    places = [{"viewpoint": place, "position": [at, 0, 0], "neighbors": near} for at, (place, near) in enumerate(beside.items())]
    (tmp_path / "graphs.jsonl").write_text(json.dumps({"scan": "s", "viewpoints": places}))
    return VLNGraph(graphs=tmp_path / "graphs.jsonl")


def rollout(completion, finished=True, episode=None):
    episode = episode or {"scan": "s", "start": "a", "goals": ["c"]}
    return Rollout(problem_id="p", sample=0, prompt="there", completion=completion, finished=finished, episode=episode)


@pytest.mark.parametrize(
    ("completion", "finished", "outcome", "answer"),
    [
        ("a b c", True, "correct", "c"),
        ("a b a b c", True, "correct", "c"),
        (" a\nb  c ", True, "correct", "c"),
        ("a b c", False, "wrong", "c"),
        ("a b", True, "wrong", "b"),
        ("a b c b", True, "wrong", "b"),
        ("a", True, "wrong", "a"),
        ("a c", True, "unparsed", None),
        ("b c", True, "unparsed", None),
        ("a b q", True, "unparsed", None),
        ("a b c stop", True, "unparsed", None),
        ("", True, "unparsed", None),
        ("\x00", True, "unparsed", None),
    ],
)
def test_only_stopping_at_the_goal_is_correct(environment, completion, finished, outcome, answer):
    given = rollout(completion, finished)
    (found,) = ReachedGoal(environment=environment).verify([given], roles={})

    assert (outcome, answer) == (found.outcome, found.answer)
    assert (float(outcome == "correct"), {"outcome": found.reward}) == (found.reward, found.scores)
    assert (given.completion, given.episode) == (found.completion, found.episode)


def test_a_wrong_episode_is_an_error_and_no_verdict(environment):
    verifier = ReachedGoal(environment=environment)
    with pytest.raises(InputError, match="no scan 'castle'"):
        list(verifier.verify([rollout("a", episode={"scan": "castle", "start": "a", "goals": ["c"]})], roles={}))
    with pytest.raises(InputError, match="the problem p has no episode"):
        list(verifier.verify([Rollout(problem_id="p", sample=0, prompt="", completion="a")], roles={}))
    with pytest.raises(InputError, match="rows_per_shard"):
        ReachedGoal(environment=environment, rows_per_shard=0)
