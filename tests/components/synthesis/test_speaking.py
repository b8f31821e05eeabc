"""Instructions told of paths."""

import pytest

from ratchet.components.policies.speaker import Speaker
from ratchet.components.synthesis.speaking import Speaking
from ratchet.errors import InputError
from ratchet.records import Problem
from tests.toys.maze import Maze

PATHS = [
    Problem(id=f"p{goal}", prompt=f"{goal}.1 {goal}.2 stop", episode={"colours": ["red", "green", "blue"], "goal": goal}, group="east")
    for goal in range(3)
]


@pytest.fixture
def speaker(tmp_path):
    Speaker(environment=Maze(), hidden_size=8).create([], out=tmp_path / "speaker", scratch=tmp_path, seed=0)
    return tmp_path / "speaker"


def told(speaker, problems, seed=1, **fields):
    return list(
        Speaking(**{"environment": Maze(), "samples": 3, "temperature": 1.0, **fields}).synthesize(speaker, problems, seed=seed, scratch=speaker)
    )


def test_a_path_is_told_in_words_seen_on_it(speaker):
    found = told(speaker, PATHS)
    assert [(f"p{goal}", sample) for goal in range(3) for sample in range(3)] == [(rollout.problem_id, rollout.sample) for rollout in found]
    for rollout, path in zip(found, (path for path in PATHS for _ in range(3)), strict=True):
        colour = path.episode["colours"][path.episode["goal"]]
        assert rollout.completion in (f"stop at the {colour}", f"go past the corridor , stop at the {colour}")
        assert (path.prompt, path.episode, "east", "generator") == (rollout.prompt, rollout.episode, rollout.group, rollout.source)
        assert 2 == rollout.tokens, "the way's only word or its end, and the goal's only word"


def test_what_a_sample_draws_depends_on_its_problem_and_the_seed_alone(speaker):
    whole = told(speaker, PATHS)
    assert whole[3:6] == told(speaker, PATHS[1:2])
    assert {rollout.completion for rollout in whole} > {rollout.completion for rollout in told(speaker, PATHS, temperature=0.0, samples=1)}
    assert told(speaker, PATHS, samples=40) != told(speaker, PATHS, samples=40, seed=2)


def test_a_low_temperature_comes_close_to_greedy(speaker):
    (greedy,) = told(speaker, PATHS[:1], temperature=0.0, samples=1)
    assert {greedy.completion} == {rollout.completion for rollout in told(speaker, PATHS[:1], temperature=0.001, samples=10)}


def test_only_a_temperature_draws():
    fields = {"environment": None, "samples": 1}
    assert (True, False) == tuple(Speaking(temperature=temperature, **fields).seeded for temperature in (0.5, 0.0))
    for wrong in ({"samples": 0}, {"temperature": -1.0}, {"temperature": 0.0, "samples": 2}, {"rows_per_shard": 0}):
        with pytest.raises(InputError):
            Speaking(**{**fields, "temperature": 1.0, **wrong})
