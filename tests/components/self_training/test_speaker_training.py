"""A speaker learns what to say of a path."""

import pytest

import ratchet.interruption
from ratchet.components.policies.speaker import Speaker
from ratchet.components.self_training.speaking import SpeakerTraining
from ratchet.components.synthesis.speaking import Speaking
from ratchet.errors import InputError, NothingSelected
from ratchet.interruption import Interrupted
from ratchet.records import Demonstration, Problem
from tests.toys.maze import Maze

COLOURS = ["red", "green", "blue"]
PATHS = [(f"{goal}.1 {goal}.2 stop", {"colours": COLOURS, "goal": goal}) for goal in range(3)]
BRIEF = [Demonstration(prompt=path, completion=f"go to {COLOURS[e['goal']]}", problem_id=str(e["goal"]), episode=e) for path, e in PATHS]


class Bare(Maze):
    """A maze in which nothing is to be seen."""

    def open(self, episode):
        walk = super().open(episode)
        walk.words = lambda place: ()
        return walk


@pytest.fixture
def speaker(tmp_path):
    Speaker(environment=Maze(), hidden_size=8).create([], out=tmp_path / "speaker", scratch=tmp_path, seed=0)
    return tmp_path / "speaker"


def train(speaker, examples, tmp_path, out="out", **fields):
    (tmp_path / out).mkdir(exist_ok=True)
    trainer = SpeakerTraining(**{"environment": Maze(), "steps": 40, "batch_size": 3, "learning_rate": 0.02, "save_every": 10, **fields})
    return trainer.train(speaker, examples, out=tmp_path / out, scratch=tmp_path / f"scratch-{out}", seed=5)


def said(speaker):
    problems = [Problem(id=path, prompt=path, episode=episode) for path, episode in PATHS]
    found = Speaking(environment=Maze(), samples=1, temperature=0.0).synthesize(speaker, problems, seed=0, scratch=speaker)
    return [rollout.completion for rollout in found]


@pytest.mark.parametrize("way", ["", "go past the corridor , "])
def test_it_says_what_its_demonstrations_say(speaker, tmp_path, way):
    wanted = [f"{way}stop at the {colour}" for colour in COLOURS]
    examples = [Demonstration(prompt=path, completion=text, episode=episode) for (path, episode), text in zip(PATHS, wanted, strict=True)]
    made = train(speaker, examples, tmp_path)
    assert wanted == said(tmp_path / "out")
    assert made["loss"] < made["first_loss"] / 2
    assert 3 == made["demonstrations"]


def test_it_learns_from_what_people_say_of_a_goal(speaker, tmp_path):
    made = train(speaker, BRIEF, tmp_path)
    assert [f"stop at the {colour}" for colour in COLOURS] == said(tmp_path / "out")
    assert 6 == made["choices"], "nothing of the way, and the colour, which is all that is seen at the end"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_and_continued_it_writes_the_same_bytes(speaker, tmp_path, monkeypatch):
    train(speaker, BRIEF, tmp_path, out="whole")
    monkeypatch.setattr(ratchet.interruption, "_wish", [15])
    with pytest.raises(Interrupted):
        train(speaker, BRIEF, tmp_path, out="killed")
    monkeypatch.setattr(ratchet.interruption, "_wish", [])
    train(speaker, BRIEF, tmp_path, out="killed")
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_what_is_inherited_is_a_choice(speaker, tmp_path):
    train(speaker, BRIEF, tmp_path, out="first")
    starts = {inherit: train(tmp_path / "first", BRIEF, tmp_path, out=inherit, inherit=inherit)["first_loss"] for inherit in ("weights", "nothing")}
    assert starts["weights"] < starts["nothing"] / 2


def test_there_must_be_something_to_learn(speaker, tmp_path):
    with pytest.raises(NothingSelected):
        train(speaker, [], tmp_path)
    with pytest.raises(InputError, match="without an episode"):
        train(speaker, [Demonstration(prompt="0.1 stop", completion="stop")], tmp_path)
    with pytest.raises(InputError, match="no instruction has a word that is seen on its path"):
        train(speaker, BRIEF, tmp_path, environment=Bare())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": 0}, {"save_every": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}])
def test_fields_are_checked(wrong):
    with pytest.raises(InputError):
        SpeakerTraining(**{"environment": None, "steps": 1, "batch_size": 1, "learning_rate": 0.1, **wrong})
