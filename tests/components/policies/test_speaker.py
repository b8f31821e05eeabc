"""The template, its slots, and what can be said of a path."""

import numpy as np
import pytest

from ratchet.components.policies.speaker import (
    END,
    FEATURES,
    Choice,
    Shape,
    Sights,
    Speaker,
    create,
    demonstrated,
    fill,
    load,
    sights_of,
    slots_of,
    worded,
)
from ratchet.errors import InputError
from tests.toys.maze import Maze

EPISODE = {"colours": ["red", "green", "blue"], "goal": 1}
SEEN = Sights(places=(("door", "red"), ("red",), ("ball", "blue", "key")), elsewhere=(("red", "box"), ("blue",)))


def take(*words):
    """Choose these words by turns, then leave the slot as it is."""
    left = list(words)

    def choose(slot, choice):
        return choice.candidates.index(left.pop(0)) if left and left[0] in choice.candidates else choice.candidates.index(END)

    return choose


def test_what_is_seen_along_a_path_and_what_beside_it():
    found = sights_of(Maze(), EPISODE, "0.1 1.1 1.2 stop")
    assert (("corridor",), ("corridor",), ("corridor",), ("green",)) == found.places
    assert (("corridor",), ("red",)) == tuple(sorted(found.elsewhere)), "2.1, which nobody entered, and 0.2, which was seen from 0.1"
    with pytest.raises(InputError, match="not a place to go to"):
        sights_of(Maze(), EPISODE, "1.2 stop")
    with pytest.raises(InputError, match="without an episode"):
        sights_of(Maze(), None, "1.1 stop")


@pytest.mark.parametrize(
    ("way", "goal", "text"),
    [
        (["red", "door"], ["blue", "ball"], "go past the red and the door , stop at the blue ball"),
        ([], ["ball"], "stop at the ball"),
        (["door"], [], "go past the door , stop"),
        ([], [], "stop"),
    ],
)
def test_the_template_says_no_more_than_its_slots(way, goal, text):
    assert text == worded({"way": way, "goal": goal})


def test_slots_are_read_back_and_what_people_write_is_of_the_goal():
    found = slots_of("go past the red and the door , stop at the blue ball")
    assert (["go", "past", "the", "red", "and", "the", "door"], ["stop", "at", "the", "blue", "ball"]) == (found["way"], found["goal"])
    assert ([], ["go", "to", "the", "red", "ball"]) == tuple(slots_of("Go to the red ball!").values())


def test_slots_hold_words_that_were_seen_there_each_once_and_no_more_than_allowed():
    offered = []

    def first(slot, choice):
        offered.append((slot, choice.candidates))
        return 0

    assert {"way": ["door", "red"], "goal": ["ball", "blue"]} == fill(SEEN, 2, first)
    assert ("way", ("door", "red", END)) == offered[0]
    assert [("ball", "blue", "key"), ("blue", "key", END)] == [candidates for slot, candidates in offered if slot == "goal"], "one word at least"


def test_features_say_where_a_word_was_seen():
    seen = {}

    def note(slot, choice):
        seen.setdefault(slot, dict(zip(choice.candidates, choice.features, strict=True)))
        return 0

    fill(SEEN, 1, note)
    column = {name: number for number, name in enumerate(FEATURES)}
    red, end = seen["way"]["red"], seen["way"][END]
    assert pytest.approx((1.0, 0.25, 0.0, 0.5)) == tuple(red[[column[name] for name in ("on_the_way", "late", "at_the_end", "elsewhere")]])
    assert (1.0, 0.0) == (end[column["is_end"]], red[column["is_end"]])
    assert pytest.approx(1 / 3) == seen["goal"]["key"][column["at_the_end"]]
    assert (0.5, 0.0) == (seen["goal"]["blue"][column["elsewhere"]], seen["goal"]["key"][column["elsewhere"]]), "blue is ambiguous"


def test_an_instruction_makes_the_choices_that_would_say_it():
    told = "go past the door , stop at the key and the ball"
    words = [choice.candidates[number] for choice, number in demonstrated(SEEN, told, 4)]
    assert ["door", END, "key", "ball", END] == words
    assert told.replace(" and the", "") == worded(fill(SEEN, 4, take("door", "key", "ball")))


def test_words_that_were_not_seen_teach_nothing():
    words = [choice.candidates[number] for choice, number in demonstrated(SEEN, "go to the purple ball", 4)]
    assert [END, "ball", END] == words
    assert [END] == [choice.candidates[number] for choice, number in demonstrated(SEEN, "go home", 4)], "a goal is not said to be nothing"


def test_a_speaker_is_what_it_was_when_it_is_loaded(tmp_path):
    made = Speaker(environment=Maze(), hidden_size=8).create([], out=tmp_path / "one", scratch=tmp_path, seed=3)
    Speaker(environment=Maze(), hidden_size=8).create([], out=tmp_path / "two", scratch=tmp_path, seed=3)
    assert len(Maze().vocabulary()) + 2 == made["words"]
    for name in ("speaker.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    first, again = create(Shape(hidden_size=8, words=4, vocabulary=("<unk>", END, *Maze().vocabulary())), 3), load(tmp_path / "one")
    choices = [choice for choice, _ in demonstrated(SEEN, "go past the door , stop at the key", 4)]
    assert np.array_equal(first(choices).detach().numpy(), again(choices).detach().numpy())


def test_a_choice_weighs_its_own_candidates_alone():
    speaker = create(Shape(hidden_size=8, words=4, vocabulary=("<unk>", END, "red")), 0)
    small, large = (Choice(words, np.ones((len(words), len(FEATURES)), dtype=np.float32)) for words in (("red", END), ("red", "door", END)))
    both = speaker([small, large]).softmax(-1).detach().numpy()
    assert both[0, 2] == 0
    assert pytest.approx(speaker([small]).softmax(-1).detach().numpy()[0], rel=1e-5) == both[0, :2]


@pytest.mark.parametrize("field", ["hidden_size", "words"])
def test_counts_count(field):
    with pytest.raises(InputError, match=field):
        Speaker(environment=None, **{field: 0})


def test_a_navigator_is_no_speaker(tmp_path):
    with pytest.raises(InputError, match="holds no speaker"):
        load(tmp_path)
