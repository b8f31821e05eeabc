"""What a recipe sees at the start of a round, and what it hands to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ratchet.artifacts import Artifact


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundState:
    """What crosses rounds. Everything else a round makes is reachable from the ledger."""

    round: int = 0
    roles: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])
    """name → the policy that plays it; `policy` is the one under training, `base` the one the run started from."""
    stores: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])
    """name → what grows across rounds: pools, replay buffers, archives, memories."""
    knobs: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the controller set for the round that ended here."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the round that ended here measured."""
    history: tuple["RoundState", ...] = ()
    """The states before this one, oldest first, each without a history of its own."""

    @property
    def policy(self) -> Artifact:
        return self.roles["policy"]

    def role(self, name: str, *, back: int = 0) -> Artifact:
        """The artifact that played a role `back` rounds ago (0: now); `back` past the start gives round 0's."""
        states = (*self.history, self)
        return states[max(0, len(states) - 1 - back)].roles[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One turn of the loop, as its recipe sees it."""

    index: int
    """1 … R; round 0 is `start`."""
    state: RoundState
    problems: Artifact
    """The training split."""
    dev: Artifact
    """What a controller may look at."""

    @property
    def policy(self) -> Artifact:
        """The policy this round starts from."""
        return self.state.roles["policy"]

    @property
    def base(self) -> Artifact:
        """The policy the run started from."""
        return self.state.roles["base"]

    def role(self, name: str, *, back: int = 0) -> Artifact:
        return self.state.role(name, back=back)

    def advance(
        self,
        policy: Artifact | None = None,
        *,
        knobs: Mapping[str, float] | None = None,
        stores: Mapping[str, Artifact] | None = None,
        **roles: Artifact,
    ) -> RoundState:
        """The state the next round starts from: a new policy, further roles or stores by name, the knobs that were set."""
        trained = {"policy": policy} if policy is not None else {}
        past = replace(self.state, history=())
        return RoundState(
            round=self.index,
            roles={**self.state.roles, **trained, **roles},
            stores={**self.state.stores, **(stores or {})},
            knobs=dict(knobs or {}),
            history=(*self.state.history, past),
        )


class Knobs(Mapping[str, float]):
    """What a controller set, readable as attributes: `knobs.temperature`."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the controller set {sorted(self._values)}, not {name}") from None

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Knobs({self._values})"
