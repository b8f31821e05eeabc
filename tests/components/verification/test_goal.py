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
        ("b c stop", True, "correct", "c"),
        (" b\nc  stop ", True, "correct", "c"),
        ("b c", False, "wrong", "c"),
        ("b stop", True, "wrong", "b"),
        ("stop", True, "wrong", "a"),
        ("", False, "wrong", "a"),
        ("c stop", True, "unparsed", None),
        ("b c b stop", True, "unparsed", None),
        ("b q stop", True, "unparsed", None),
        ("b c", True, "unparsed", None),
        ("b c stop", False, "unparsed", None),
        ("b stop c stop", True, "unparsed", None),
        ("", True, "unparsed", None),
        ("\x00 stop", True, "unparsed", None),
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
