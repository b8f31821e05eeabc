"""Round 0 of a navigation recipe: a graph agent with random weights that knows the words of its environment and of its goals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.components.policies import graph_agent
from ratchet.components.policies.graph_agent import UNKNOWN, Shape, words_of
from ratchet.errors import InputError
from ratchet.protocols import Metrics
from ratchet.records import Problem


@dataclass(frozen=True, kw_only=True)
class Navigator:
    environment: Any
    """A `GraphEnvironment`, for the words that its places show."""
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    features: int = 0
    """Length of the environment's image features; 0: it shows none, or they are not read."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        if self.hidden_size % self.heads:
            raise InputError("every head needs an equal part of hidden_size", got=self.hidden_size, allowed=f"multiples of {self.heads}")

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        told = {word for problem in examples for word in words_of(problem.prompt)}
        vocabulary = (UNKNOWN, *sorted(told | set(self.environment.vocabulary())))
        agent = graph_agent.create(
            Shape(hidden_size=self.hidden_size, layers=self.layers, heads=self.heads, features=self.features, vocabulary=vocabulary), seed
        )
        graph_agent.save(agent, out)
        return {"parameters": sum(parameter.numel() for parameter in agent.parameters()), "words": len(vocabulary)}
