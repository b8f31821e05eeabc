"""A compact agent on graphs: it reads the map that it has built and says where to go next, or to stop.

A transformer over the goal and the places of the map, after DUET's coarse-scale encoder (Chen et al., CVPR 2022, 2202.11742, §3.3):

    n_i  = W_g [geometry_i, visited_i, here_i, recency_i, matches_i, t] + mean of the embeddings of place i's words (+ W_f image_i)
    h    = transformer(goal, n_1 … n_N),   attention between places lowered by a learned multiple of the known way's length (eq. 4)
    p    = softmax([stop(h_here, h_goal), go(h_i, h_goal) for i on the frontier])

`matches` are the shares of the goal's words that are seen at the place, and of the place's words that are in the goal; `recency` is
1/(1 + k) for the place visited k places ago. The map says all that happened, so there is no recurrent state, and every decision of a
trajectory can be learned by itself. Left out of DUET: the fine-scale encoder (there are no pixels) and its pretraining tasks.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import log1p
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.components.environments.views import GEOMETRY, STOP, View
from ratchet.errors import InputError
from ratchet.identity import canonical

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SETTINGS, WEIGHTS = "agent.json", "model.safetensors"
MORE = ("visited", "here", "recency", "of_goal", "of_place", "time")
UNKNOWN = "<unk>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What an agent is, beside its weights."""

    hidden_size: int
    layers: int
    heads: int
    features: int
    """Length of an image feature; 0: none are read."""
    vocabulary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """One decision's inputs as arrays."""

    places: "NDArray[np.float32]"
    """[N, len(GEOMETRY) + len(MORE)]"""
    words: list[list[int]]
    goal: list[int]
    ways: "NDArray[np.float32]"
    visited: int
    features: "NDArray[np.float32] | None"


class Reader:
    """Turns views into arrays."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._index = {word: number for number, word in enumerate(vocabulary)}
        self._known: dict[tuple[str, ...], tuple[list[int], frozenset[int]]] = {}
        self._goals: dict[str, tuple[list[int], frozenset[int]]] = {}

    def read(self, view: View, goal: str, time: int) -> Moment:
        """What the agent sees of a view, after so many decisions, on its way to a goal in words."""
        import numpy as np

        told, wanted = self._goal(goal)
        read = [self._words(words) for words in view.words]
        places = np.zeros((len(view.places), len(GEOMETRY) + len(MORE)), dtype=np.float32)
        places[:, : len(GEOMETRY)] = view.geometry
        more = places[:, len(GEOMETRY) :]
        more[: view.visited, 0] = 1
        more[0, 1] = 1
        more[: view.visited, 2] = 1 / np.arange(1, view.visited + 1)
        for row, (_, seen) in enumerate(read):
            if shared := len(wanted & seen):
                more[row, 3:5] = shared / len(wanted), shared / len(seen)
        more[:, 5] = log1p(time) / 3
        return Moment(places, [words for words, _ in read], told, view.ways, view.visited, view.features)

    def _words(self, words: tuple[str, ...]) -> tuple[list[int], frozenset[int]]:
        if words not in self._known:
            found = [self._index.get(word, 0) for word in words]
            self._known[words] = found, frozenset(found) - {0}
        return self._known[words]

    def _goal(self, goal: str) -> tuple[list[int], frozenset[int]]:
        if goal not in self._goals:
            self._goals[goal] = self._words(tuple(dict.fromkeys(words_of(goal))))
        return self._goals[goal]


def words_of(text: str) -> list[str]:
    """A goal's words: lower case, letters and digits only."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def actions_of(view: View) -> tuple[str, ...]:
    """What the logits of a view stand for, in their order."""
    return (STOP, *view.frontier)


@cache
def _classes() -> Any:
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attend, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

        def forward(self, x: Any, bias: Any) -> Any:
            rows, length, width = x.shape
            q, k, v = self.attend(self.before(x)).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            x = x + self.join(mixed.transpose(1, 2).reshape(rows, length, width))
            return x + self.think(self.between(x))

    class Agent(nn.Module):
        def __init__(self, shape: Shape) -> None:
            super().__init__()
            width = shape.hidden_size
            self.shape = shape
            self.word = nn.Embedding(len(shape.vocabulary), width)
            self.place = nn.Linear(len(GEOMETRY) + len(MORE), width)
            self.image = nn.Linear(shape.features, width) if shape.features else None
            self.goal = nn.Linear(width, width)
            self.far = nn.Parameter(torch.zeros(shape.heads))
            self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.layers))
            self.last = nn.LayerNorm(width)
            self.go = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
            self.stop = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))
            nn.init.normal_(self.word.weight, std=width**-0.5)

        def forward(self, moments: Sequence[Moment]) -> Any:
            """[B, 1 + F] logits of `STOP` and of the frontier's places; -inf where a map has fewer than the largest."""
            given = collate(moments, self.shape.features)
            goal = self.goal(self._bags(given["goal"]))
            places = self.place(given["places"]) + self._bags(given["words"]).view(*given["places"].shape[:2], -1)
            if self.image is not None:
                places = places + self.image(given["features"])
            x = torch.cat([goal[:, None], places], dim=1)
            bias = -functional.softplus(self.far)[None, :, None, None] * given["ways"][:, None]
            bias = bias.masked_fill(given["padding"][:, None, None], float("-inf"))
            for block in self.blocks:
                x = block(x, bias)
            x = self.last(x)
            goal, places = x[:, :1], x[:, 1:]
            going = self.go(torch.cat([places, goal.expand_as(places)], -1)).squeeze(-1)
            going = torch.cat([going, going.new_full((len(going), 1), float("-inf"))], dim=1).gather(1, given["frontier"])
            return torch.cat([self.stop(torch.cat([places[:, 0], goal[:, 0]], -1)), going], dim=1)

        def _bags(self, bags: Any) -> Any:
            ids, offsets = bags
            return functional.embedding_bag(ids, self.word.weight, offsets, mode="mean")

    return Agent


def collate(moments: Sequence[Moment], features: int) -> dict[str, Any]:
    """Moments as one padded batch."""
    import numpy as np
    import torch

    rows, most = len(moments), max(len(moment.places) for moment in moments)
    width = max(1, max(len(moment.places) - moment.visited for moment in moments))
    places = np.zeros((rows, most, len(GEOMETRY) + len(MORE)), dtype=np.float32)
    ways = np.zeros((rows, most + 1, most + 1), dtype=np.float32)
    padding = np.ones((rows, most + 1), dtype=bool)
    frontier = np.full((rows, width), most, dtype=np.int64)
    images = np.zeros((rows, most, features), dtype=np.float32)
    words: list[list[int]] = []
    for row, moment in enumerate(moments):
        size = len(moment.places)
        places[row, :size] = moment.places
        ways[row, 1 : size + 1, 1 : size + 1] = moment.ways
        padding[row, : size + 1] = False
        frontier[row, : size - moment.visited] = np.arange(moment.visited, size)
        if features:
            if moment.features is None or moment.features.shape[1] != features:
                got = "none" if moment.features is None else f"of {moment.features.shape[1]} numbers"
                raise InputError("the agent reads image features that the environment does not show", got=got, allowed=f"of {features} numbers")
            images[row, :size] = moment.features
        words += moment.words + [[]] * (most - size)
    return {
        "places": torch.from_numpy(places),
        "ways": torch.from_numpy(ways),
        "padding": torch.from_numpy(padding),
        "frontier": torch.from_numpy(frontier),
        "features": torch.from_numpy(images),
        "words": _bags(words),
        "goal": _bags([moment.goal for moment in moments]),
    }


def _bags(lists: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    import numpy as np
    import torch

    offsets = np.zeros(len(lists), dtype=np.int64)
    np.cumsum([len(words) for words in lists[:-1]], out=offsets[1:])
    flat = np.fromiter((word for words in lists for word in words), dtype=np.int64)
    return torch.from_numpy(flat), torch.from_numpy(offsets)


def create(shape: Shape, seed: int) -> Any:
    """An agent with random weights."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _classes()(shape)


def save(agent: Any, folder: Path) -> None:
    """Write an agent that `load` reads."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in agent.state_dict().items()}, folder / WEIGHTS)
    (folder / SETTINGS).write_bytes(canonical(asdict(agent.shape)) + b"\n")


def load(folder: Path) -> tuple[Any, Reader]:
    """The agent in a folder, and how it reads views."""
    from safetensors.torch import load_file

    try:
        settings: Mapping[str, Any] = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        raise InputError(f"{folder} holds no agent for graphs", next="choose policy=navigator") from None
    agent = create(Shape(**{**settings, "vocabulary": tuple(settings["vocabulary"])}), 0)
    agent.load_state_dict(load_file(folder / WEIGHTS))
    return agent, Reader(agent.shape.vocabulary)
