"""A speaker: it tells a path in a template whose slots hold words that were seen along it; which ones is learned.

    go past the W1 and the W2 , stop at the G1 G2          W: seen at places before the end     G: seen at the end

Each slot is filled word by word, without replacement, until the speaker says that it is full (`END`) or has `words` of them; the last
slot gets at least one word, if there is one. The next word is drawn from

    p(w) = softmax over the candidates and END of  f([what the path says of w, how far the slot is filled, e_w]) / temperature

with a learned embedding e_w and a small network f. What the path says of a word: at how large a share of the places before the end it
was seen, and how late; whether it is seen at the end, and among how many; and how often it is seen elsewhere, on the frontier that is
left there, since a word that fits other places too leads astray. So the speaker can learn to name what a navigator finds.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import log1p
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.components.policies.graph_agent import UNKNOWN, words_of
from ratchet.errors import InputError
from ratchet.identity import canonical
from ratchet.protocols import STOP, Metrics
from ratchet.records import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SETTINGS, WEIGHTS = "speaker.json", "model.safetensors"
END = "<end>"
SLOTS = ("way", "goal")
FEATURES = ("of_goal_slot", "on_the_way", "late", "at_the_end", "elsewhere", "said", "left", "is_end")
MARK = ["stop", "at", "the"]
"""What stands before the words of the goal."""


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """Round 0's speaker: random weights, so it fills its template by chance."""

    environment: Any
    """A `GraphEnvironment`, for the words that its places show."""
    hidden_size: int = 32
    words: int = 4
    """The most that a slot holds."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "words"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        vocabulary = (UNKNOWN, END, *self.environment.vocabulary())
        speaker = create(Shape(hidden_size=self.hidden_size, words=self.words, vocabulary=vocabulary), seed)
        save(speaker, out)
        return {"parameters": sum(parameter.numel() for parameter in speaker.parameters()), "words": len(vocabulary)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a speaker is, beside its weights."""

    hidden_size: int
    words: int
    vocabulary: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sights:
    """What was seen along a path."""

    places: tuple[tuple[str, ...], ...]
    """The words of every place where the walker decided, the end last."""
    elsewhere: tuple[tuple[str, ...], ...]
    """Those of the places that are then on the frontier."""


def sights_of(environment: Any, episode: Mapping[str, Any] | None, path: str) -> Sights:
    """What is seen along a path, given as its actions; InputError if the episode does not offer one of them."""
    if episode is None:
        raise InputError("a path without an episode leads nowhere", got=path[:80], next="give problems of an environment")
    walk, places = environment.open(episode), list[tuple[str, ...]]()
    for action in path.removesuffix(STOP).split():
        places.append(walk.view().words[0])
        walk.step(action)
    last = walk.view()
    return Sights(places=(*places, last.words[0]), elsewhere=last.words[last.visited :])


def worded(said: Mapping[str, Sequence[str]]) -> str:
    """The template, filled."""
    way = "go past " + " and ".join(f"the {word}" for word in said["way"]) if said["way"] else ""
    goal = " ".join(["stop at the", *said["goal"]] if said["goal"] else ["stop"])
    return " , ".join(part for part in (way, goal) if part)


def slots_of(instruction: str) -> dict[str, list[str]]:
    """The words of an instruction by slot: those after the last `stop at the` are of the goal, and without it all are."""
    words = words_of(instruction)
    cut = next((at for at in range(len(words) - len(MARK), -1, -1) if words[at : at + len(MARK)] == MARK), 0)
    return {"way": words[:cut], "goal": words[cut:]}


@dataclass(frozen=True, slots=True)
class Choice:
    """One step of filling a slot: what there is to choose from."""

    candidates: tuple[str, ...]
    """The words, and at the end `END` where the slot may be left as it is."""
    features: "NDArray[np.float32]"
    """[N, len(FEATURES)]"""


Choose = Callable[[str, Choice], int | None]
"""How a slot is filled: the slot and the choice → the number of a candidate; None: fill it no further, and nothing was chosen."""


def fill(sights: Sights, words: int, choose: Choose) -> dict[str, list[str]]:
    """Fill the slots of the template, asking for each word."""
    said: dict[str, list[str]] = {}
    for slot in SLOTS:
        seen = sights.places[:-1] if slot == "way" else sights.places[-1:]
        left = sorted({word for place in seen for word in place})
        said[slot] = []
        while left and len(said[slot]) < words:
            choice = _choice(sights, slot, left, len(said[slot]))
            number = choose(slot, choice)
            if number is None or choice.candidates[number] == END:
                break
            left.remove(choice.candidates[number])
            said[slot].append(choice.candidates[number])
    return said


def demonstrated(sights: Sights, instruction: str, words: int) -> Iterator[tuple[Choice, int]]:
    """The choices that an instruction makes, of those that the template allows: words in its order, then `END`.

    Words that were not seen are passed over, so an instruction that people wrote teaches what of it can be said."""
    given = {slot: list(dict.fromkeys(found)) for slot, found in slots_of(instruction).items()}
    made: list[tuple[Choice, int]] = []

    def choose(slot: str, choice: Choice) -> int | None:
        wanted = next((word for word in given[slot] if word in choice.candidates), END)
        if wanted not in choice.candidates:
            return None
        if wanted != END:
            given[slot].remove(wanted)
        made.append((choice, choice.candidates.index(wanted)))
        return made[-1][1]

    fill(sights, words, choose)
    yield from made


def _choice(sights: Sights, slot: str, left: Sequence[str], said: int) -> Choice:
    import numpy as np

    candidates = (*left, END) if slot == "way" or said else tuple(left)
    features = np.zeros((len(candidates), len(FEATURES)), dtype=np.float32)
    before, end, elsewhere = sights.places[:-1], sights.places[-1], sights.elsewhere
    for row, word in enumerate(candidates):
        at = [number for number, place in enumerate(before) if word in place]
        features[row, 1:5] = (
            len(at) / max(1, len(before)),
            sum(at) / len(at) / len(before) if at else 0.0,
            (word in end) / max(1, len(end)),
            sum(word in place for place in elsewhere) / max(1, len(elsewhere)),
        )
    features[:, 0] = slot == "goal"
    features[:, 5:7] = log1p(said), log1p(len(left)) / 3
    features[:, 7] = [word == END for word in candidates]
    return Choice(candidates, features)


@cache
def _classes() -> Any:
    import torch
    from torch import nn

    class Wording(nn.Module):
        def __init__(self, shape: Shape) -> None:
            super().__init__()
            self.shape = shape
            self.index = {word: number for number, word in enumerate(shape.vocabulary)}
            self.word = nn.Embedding(len(shape.vocabulary), shape.hidden_size)
            self.score = nn.Sequential(nn.Linear(len(FEATURES) + shape.hidden_size, shape.hidden_size), nn.GELU(), nn.Linear(shape.hidden_size, 1))
            nn.init.normal_(self.word.weight, std=shape.hidden_size**-0.5)

        def forward(self, choices: Sequence[Choice]) -> Any:
            """[B, N] logits of the candidates; -inf where a choice has fewer than the largest."""
            most = max(len(choice.candidates) for choice in choices)
            features = torch.zeros(len(choices), most, len(FEATURES))
            words = torch.zeros(len(choices), most, dtype=torch.long)
            padding = torch.ones(len(choices), most, dtype=torch.bool)
            for row, choice in enumerate(choices):
                size = len(choice.candidates)
                features[row, :size] = torch.from_numpy(choice.features)
                words[row, :size] = torch.tensor([self.index.get(word, 0) for word in choice.candidates])
                padding[row, :size] = False
            logits = self.score(torch.cat([features, self.word(words)], -1)).squeeze(-1)
            return logits.masked_fill(padding, float("-inf"))

    return Wording


def create(shape: Shape, seed: int) -> Any:
    """A speaker with random weights."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _classes()(shape)


def save(speaker: Any, folder: Path) -> None:
    """Write a speaker that `load` reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in speaker.state_dict().items()}, folder / WEIGHTS)
    (folder / SETTINGS).write_bytes(canonical(asdict(speaker.shape)) + b"\n")


def load(folder: Path) -> Any:
    """The speaker in a folder."""
    from safetensors.torch import load_file

    try:
        settings: Mapping[str, Any] = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no speaker", next="hand in the role `generator`, which generator=speaker creates") from None
    speaker = create(Shape(**{**settings, "vocabulary": tuple(settings["vocabulary"])}), 0)
    speaker.load_state_dict(load_file(folder / WEIGHTS))
    return speaker
