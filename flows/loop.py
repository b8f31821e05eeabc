"""The loop, in plain Python: what a recipe can do in a round, what happens before the first and after each."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from ratchet.artifacts import Artifact, Grid
from ratchet.errors import InputError, NothingSelected
from ratchet.flows.gating import Gating, Judged
from ratchet.identity import decimal_key, derive_seed
from ratchet.rounds import Knobs, Round, RoundState
from ratchet.stages import SEEDED, Stage

PART_OF = {
    "propose": "task",
    "create": "policy",
    "synthesize": "synthesis",
    "verify": "verification",
    "select": "selection",
    "train": "training",
    "evaluate": "evaluation",
    "adjust": "control",
    "gate": "gates.panel",
}
"""Verb → the config group whose component does it, unless `using` names another."""

Make = Callable[[Sequence[Stage]], Sequence[Artifact]]
Given = TypeVar("Given", Artifact, Grid)


@dataclass(frozen=True)
class Stages:
    """The verbs of one round. Keyword arguments override fields of the component; `using` names another component of the config."""

    parts: Mapping[str, Any]
    make: Make
    knobs_of: Callable[[Artifact], Mapping[str, float]]
    seed: int
    round: int
    roles: Mapping[str, Artifact] = field(default_factory=dict[str, Artifact])
    purpose: str = ""
    held_out: str = "test"
    """The split that is meant where `test` is asked for."""
    taken: dict[str, list[Artifact]] = field(default_factory=dict[str, list[Artifact]])
    """What was trained on (`examples`), selected from (`rollouts`), measured (`greedy`, `sampled`, `problems`) for this purpose so far."""
    _asked: Counter[str] = field(default_factory=Counter[str])

    def part(self, name: str) -> Any:
        """The component (or group, or number) under a dotted name of the config, such as `verification.outcome`."""
        found: Any = self.parts
        for step in name.split("."):
            found = found.get(step) if isinstance(found, Mapping) else getattr(found, step, None)
            if found is None:
                what = f"this recipe needs `{name}`, and the config has none"
                raise InputError(what, next=f"choose one: {name.split('.')[0]}=…, see `ratchet run --help`")
        return found

    def has(self, name: str) -> bool:
        """Whether the config has a component under a name."""
        return self.parts.get(name) is not None

    def needs(self, role: str) -> bool:
        """Whether any component reads a role."""
        return any(role in getattr(part, "roles", ()) for part in self.parts.values())

    def taking(self, **roles: Artifact) -> "Stages":
        """The same verbs with further roles to read."""
        return dataclasses.replace(self, roles={**self.roles, **roles})

    def serving(self, purpose: str) -> "Stages":
        """The same verbs, whose stages say what they serve."""
        return dataclasses.replace(self, purpose=purpose, taken={})

    def on(self, split: str) -> "Stages":
        """The same verbs, for which `split` stands in for the test problems."""
        return dataclasses.replace(self, held_out=split)

    def propose(self, using: str = "task", **changes: Any) -> Artifact:
        """Problems of a task's split."""
        if changes.get("split") == "test":
            changes = {**changes, "split": self.held_out}
        return self._take("problems", self._one("propose", using, {}, changes))

    def create(self, examples: Artifact | None = None, using: str = "policy", **changes: Any) -> Artifact:
        """The policy the run starts from; `examples` are problems with worked solutions, for one that learns from them."""
        return self._one("create", using, {"examples": examples} if examples else {}, changes)

    @overload
    def synthesize(self, policy: Artifact, problems: Artifact, using: str = "synthesis", *, over: None = None, **changes: Any) -> Artifact: ...

    @overload
    def synthesize(
        self, policy: Artifact, problems: Artifact, using: str = "synthesis", *, over: Mapping[str, Sequence[float]], **changes: Any
    ) -> Grid: ...

    def synthesize(
        self,
        policy: Artifact,
        problems: Artifact,
        using: str = "synthesis",
        *,
        over: Mapping[str, Sequence[float]] | None = None,
        **changes: Any,
    ) -> Artifact | Grid:
        """Rollouts of a policy on problems; with `over={field: values}` one artifact per value."""
        inputs = {"policy": policy, "problems": problems}
        if over is None:
            return self._one("synthesize", using, inputs, changes)
        ((name, values),) = over.items()
        cells = {decimal_key(value): self._component("synthesize", using, {**changes, name: value}) for value in values}
        return self._grid("synthesize", name, {key: (component, inputs) for key, component in cells.items()})

    def verify(self, rollouts: Given, using: str = "verification", **changes: Any) -> Given:
        """The same rollouts with outcome and reward; a grid cell by cell."""
        component = self._component("verify", using, changes)
        if isinstance(rollouts, Artifact):
            return self._ask("verify", component, {"rollouts": rollouts})
        return self._grid("verify", rollouts.field, {key: (component, {"rollouts": cell}) for key, cell in rollouts.items()})

    def select(self, *rollouts: Artifact, using: str = "selection", allow_empty: bool = False, **changes: Any) -> Artifact:
        """What is kept of verified rollouts; keeping nothing ends the round, unless `allow_empty`."""
        inputs = {f"rollouts{index or ''}": self._take("rollouts", given) for index, given in enumerate(rollouts)}
        kept = self._one("select", using, inputs, changes)
        if not kept.rows and not allow_empty:
            raise NothingSelected(f"round {self.round}: nothing was selected of {sum(given.rows for given in rollouts)} rollouts")
        return kept

    def train(self, policy: Artifact, examples: Artifact, using: str = "training", **changes: Any) -> Artifact:
        """A policy trained on examples; the one handed in says whose weights (and state) it inherits."""
        return self._one("train", using, {"policy": policy, "examples": self._take("examples", examples)}, changes)

    def evaluate(self, greedy: Artifact, sampled: Artifact | None = None, using: str = "evaluation", **changes: Any) -> Artifact:
        """A report on verified rollouts."""
        inputs = {"greedy": self._take("greedy", greedy)} | ({"sampled": self._take("sampled", sampled)} if sampled else {})
        return self._one("evaluate", using, inputs, changes)

    def adjust(self, cells: Grid, problems: Artifact, using: str = "control", **changes: Any) -> Knobs:
        """The controller's knobs for the round, decided on a grid of verified rollouts."""
        component = self._component("adjust", using, changes)
        return Knobs(self.knobs_of(self._ask("adjust", component, {"cells": cells, "problems": problems})))

    def gate(self, inputs: Mapping[str, Artifact], using: str = "gates.panel", *, look: int) -> Artifact:
        """What the gates say of a candidate; `inputs` are what they look at, by name."""
        return self._ask("gate", self._component("gate", using, {"look": look}), inputs)

    def _take(self, what: str, artifact: Artifact) -> Artifact:
        self.taken.setdefault(what, []).append(artifact)
        return artifact

    def _component(self, verb: str, using: str, changes: Mapping[str, Any]) -> Any:
        part = self.part(using)
        if not hasattr(part, "__dataclass_fields__"):
            raise InputError(f"`{using}` names no component to do `{verb}`", got=part, next=f"choose one: {using.split('.')[0]}=…")
        known = {f.name for f in dataclasses.fields(part)}
        if unknown := changes.keys() - known:
            raise InputError(f"{type(part).__name__}, which does `{verb}`, has no field {sorted(unknown)}", allowed=sorted(known))
        return dataclasses.replace(part, **changes)

    def _one(self, verb: str, using: str, inputs: Mapping[str, Artifact], changes: Mapping[str, Any]) -> Artifact:
        return self._ask(verb, self._component(verb, using, changes), inputs)

    def _ask(self, verb: str, component: Any, inputs: Mapping[str, Artifact | Grid]) -> Artifact:
        return self.make([self._stage(verb, component, inputs, ordinal=self._ordinal(verb))])[0]

    def _grid(self, verb: str, name: str, cells: Mapping[str, tuple[Any, Mapping[str, Artifact | Grid]]]) -> Grid:
        ordinal = self._ordinal(verb)
        stages = [self._stage(verb, part, inputs, ordinal=ordinal, cell=f"{name}={key}") for key, (part, inputs) in cells.items()]
        return Grid(name, dict(zip(cells, self.make(stages), strict=True)))

    def _ordinal(self, verb: str) -> int:
        self._asked[verb] += 1
        return self._asked[verb] - 1

    def _stage(self, verb: str, component: Any, inputs: Mapping[str, Artifact | Grid], *, ordinal: int, cell: str | None = None) -> Stage:
        seed = derive_seed(self.seed, self.round, verb, ordinal) if getattr(component, "seeded", verb in SEEDED) else None
        return Stage(
            verb=verb,
            component=component,
            inputs={**inputs, **self._roles(component)},
            seed=seed,
            round=self.round,
            ordinal=ordinal,
            cell=cell,
            purpose=self.purpose,
        )

    def _roles(self, component: Any) -> dict[str, Artifact]:
        wanted = getattr(component, "roles", ())
        if missing := [name for name in wanted if name not in self.roles]:
            raise InputError(f"{type(component).__name__} reads the role {missing[0]}, which nobody plays yet", got=sorted(self.roles))
        return {f"role:{name}": self.roles[name] for name in wanted}


Step = Callable[[Round, Stages], RoundState]
Start = Callable[[Stages], RoundState]
Measure = Callable[[RoundState, Stages], Artifact]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A round as a function, with what comes before the first (`start`) and after each (`measure`)."""

    name: str
    step: Step
    start: Start
    measure: Measure
    __doc__: str | None = None

    def __call__(self, round: Round, do: Stages) -> RoundState:
        return self.step(round, do)


def base_policy(do: Stages) -> RoundState:
    """Round 0: the policy is created from the task's worked examples, and with it the process-reward model if a verifier reads one."""
    learns = getattr(do.part("policy"), "warmup", None) is not None
    policy = do.create(do.serving("worked examples").propose(split="worked") if learns else None)
    state = RoundState(roles={"policy": policy, "base": policy})
    if not do.needs("prm"):
        return state
    return dataclasses.replace(state, roles={**state.roles, "prm": process_reward_model(policy, do.serving("process reward"))})


def process_reward_model(policy: Artifact, do: Stages) -> Artifact:
    """A value of every step, learned from the policy's own completions (Math-Shepherd, Wang et al., 2312.08935, §3.2).

    A step is as good as the share of completions from it that reach the right answer. B-STaR trains its model so, once.
    """
    spec = do.part("process_reward")
    problems = do.propose(split="prm")
    tries = do.synthesize(policy, problems, samples=spec["samples"])
    prefixes = do.select(do.verify(tries, using="verification.outcome"), using="process_reward.prefixes")
    completed = do.verify(do.synthesize(policy, prefixes, samples=spec["completions"]), using="verification.outcome")
    return do.train(policy, do.select(completed, using="process_reward.labels"), using="process_reward.training")


def on_test_problems(state: RoundState, do: Stages) -> Artifact:
    """Greedy and sampled rollouts on the held-out problems, verified and reported."""
    exam, test = do.part("evaluation"), do.propose(split="test")
    greedy = do.verify(do.synthesize(state.policy, test, samples=1, temperature=0.0))
    if not exam.samples:
        return do.evaluate(greedy)
    return do.evaluate(greedy, do.verify(do.synthesize(state.policy, test, samples=exam.samples, temperature=exam.temperature)))


@overload
def recipe(step: Step, /) -> Recipe: ...


@overload
def recipe(*, start: Start = ..., measure: Measure = ...) -> Callable[[Step], Recipe]: ...


def recipe(step: Step | None = None, /, *, start: Start = base_policy, measure: Measure = on_test_problems) -> Recipe | Callable[[Step], Recipe]:
    """Make a recipe of a round's function. It registers nothing: a config names it by its dotted path."""

    def of(step: Step) -> Recipe:
        return Recipe(name=step.__name__, step=step, start=start, measure=measure, __doc__=step.__doc__)

    return of(step) if step is not None else of


class Journal:
    """What the loop tells as it goes; the driver's writes it to the ledger, a plan's ignores it."""

    def begins(self, round: int, of: int) -> None:
        """A round begins."""

    def decided(self, round: int, knobs: Mapping[str, float]) -> None:
        """A controller set knobs."""

    def advanced(self, state: RoundState, report: Artifact, *, note: str = "") -> None:
        """A round ended in a state."""

    def judged(self, round: int, found: Judged) -> None:
        """The gates had their say on a round's candidate."""

    def enough(self, state: RoundState) -> str | None:
        """Why no further round is to begin after a state; None if one is."""

    def stopped(self, reason: str) -> None:
        """The run ends before its last round, as planned for such a case."""


def self_train(
    recipe: Recipe,
    stages: Callable[[int], Stages],
    *,
    rounds: int,
    on_empty: str,
    journal: Journal,
    begun: RoundState | None = None,
    gating: Gating | None = None,
) -> RoundState:
    """Start, then turn the ratchet `rounds` times, measuring and judging after each; return the last state.

    The loop holds no state of its own: asked again it walks the same path over published stages, and goes on where they end. A fork
    has `begun` already, in a state of another run, and asks for its problems in its first own round.
    """
    if begun is not None and begun.round >= rounds:
        return begun
    do = stages(begun.round + 1 if begun else 0)
    journal.begins(do.round, rounds)
    problems, dev = (do.serving(f"{split} problems").propose(split=split) for split in ("train", "dev"))
    state = begun or _started(recipe, do, journal, gating)
    if begun and gating and not gating.has_begun(begun):
        state = gating.begin(recipe, begun, do, None)
    for index in range(state.round + 1, rounds + 1):
        if reason := journal.enough(state):
            journal.stopped(reason)
            return state
        if index != do.round:
            do = stages(index)
            journal.begins(index, rounds)
        do = do.taking(**state.roles)
        turn = Round(index=index, state=state, problems=problems, dev=dev)
        note = ""
        try:
            advanced = recipe.step(turn, do)
        except NothingSelected as nothing:
            if on_empty == "stop":
                journal.stopped(f"{nothing}; stopped as on_empty=stop says (on_empty=continue keeps the policy and goes on)")
                return state
            advanced, note = turn.advance(), f"{nothing}; the policy is kept"
        state, stop = _measured(recipe, advanced, do, journal, gating, note=note)
        if stop:
            journal.stopped(stop)
            return state
    return state


def _started(recipe: Recipe, do: Stages, journal: Journal, gating: Gating | None) -> RoundState:
    """Round 0, measured."""
    try:
        state = recipe.start(do)
    except NothingSelected as nothing:  # before the first round there is no policy to keep
        raise InputError(f"{nothing}, so the run cannot start", next="sample more, or begin with a stronger policy") from None
    return _measured(recipe, state, do, journal, gating)[0]


def _measured(
    recipe: Recipe, state: RoundState, do: Stages, journal: Journal, gating: Gating | None, note: str = ""
) -> tuple[RoundState, str | None]:
    """The state with what was measured, and judged where there are gates; and why the run is to end there, if it is."""
    if state.knobs:
        journal.decided(state.round, state.knobs)
    measuring = do.taking(**state.roles).serving("evaluation")
    report = recipe.measure(state, measuring)
    state = dataclasses.replace(state, metrics=dict(report.metrics))
    stop = None
    if gating and not gating.has_begun(state):
        state = gating.begin(recipe, state, do, measuring)
    elif gating and (found := gating.judge(recipe, state, do, measuring)):
        journal.judged(state.round, found)
        state, stop = found.state, found.stop
        note = "; ".join(text for text in (note, found.note) if text)
    journal.advanced(state, report, note=note)
    return state, stop
