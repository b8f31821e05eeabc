"""Gates in the loop: after each round the candidate is judged against the champion and round 0, and what follows is decided.

What gates look at is measured like everything else, by stages that are resumed and shared: the recipe's own measure on the problems of
`gates.split`, the labels' verifier on its greedy rollouts, the probe set, further benchmarks. What the champion and round 0 answered
crosses rounds in the state's stores (`gates.champion.greedy`, …), so that a fork has it too.

    promote    every gate let it pass: the candidate is the champion and the next parent
    keep       on_fail=keep: the champion stays and is the next parent; the candidate is recorded under the role `candidate`
    stop       on_fail=stop: as keep, and the run ends there
    continue   on_fail=continue: the candidate is the next parent all the same; the champion, that later ones are set against, stays
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ratchet.artifacts import Artifact
from ratchet.errors import InputError
from ratchet.rounds import RoundState

if TYPE_CHECKING:  # the loop imports this
    from ratchet.flows.loop import Recipe, Stages

OnFail = Literal["keep", "stop", "continue"]
ON_FAIL: tuple[OnFail, ...] = ("keep", "stop", "continue")
KEYS = {"on_fail", "split", "labelled", "probe", "benchmarks", "panel"}
CHAMPION, CANDIDATE = "champion", "candidate"
STORED = "gates"
"""What the names of the gates' stores begin with."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of a candidate."""

    verdict: Artifact
    promoted: bool
    action: Literal["promote", "keep", "stop", "continue"]
    candidate: Artifact
    state: RoundState
    note: str
    stop: str | None = None
    """Why the run ends here."""


@dataclass(frozen=True, kw_only=True)
class Gating:
    """The gates of a config, as the loop uses them."""

    on_fail: OnFail
    split: str
    labelled: bool
    probe: bool
    benchmarks: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @staticmethod
    def of(parts: Mapping[str, Any]) -> "Gating | None":
        """The gates of a config's parts; None if it has none."""
        given = parts.get("gates")
        if given is None:
            return None
        if not isinstance(given, Mapping) or set(given) != KEYS:
            found = sorted(given) if isinstance(given, Mapping) else type(given).__name__
            raise InputError("the group `gates` is not whole", got=found, allowed=", ".join(sorted(KEYS)), next="begin with gates=standard")
        if given["on_fail"] not in ON_FAIL:
            raise InputError("gates.on_fail has a wrong value", got=given["on_fail"], allowed=", ".join(ON_FAIL))
        if given["split"] not in ("dev", "test"):
            raise InputError("gates.split has a wrong value", got=given["split"], allowed="dev, test")
        if not hasattr(given["panel"], "judge"):
            raise InputError("gates.panel judges nothing", got=type(given["panel"]).__name__, allowed="a component with `judge`")
        benchmarks = given["benchmarks"] or {}
        for name, parts_of in {**benchmarks, **({"probe": given["probe"]} if given["probe"] else {})}.items():
            if not isinstance(parts_of, Mapping) or set(parts_of) != {"task", "verification"}:
                raise InputError(f"gates: {name} needs what it asks and how that is judged", got=parts_of, allowed="{task: …, verification: …}")
            if "." in name:
                raise InputError("a benchmark's name has no dot", got=name)
        return Gating(
            on_fail=given["on_fail"],
            split=given["split"],
            labelled=given["labelled"] is not None,
            probe=given["probe"] is not None,
            benchmarks=benchmarks,
        )

    def has_begun(self, state: RoundState) -> bool:
        """Whether a state has a champion, with what it answered."""
        return {CHAMPION, CANDIDATE} <= state.roles.keys()

    def begin(self, recipe: "Recipe", state: RoundState, do: "Stages", measured: "Stages | None") -> RoundState:
        """Round 0's policy (or the one that a run without gates was forked with) is the first champion."""
        found = self._measured(recipe, state, do, measured)
        stores = _named("start", found) | _named(CHAMPION, found) | _named("latest", found, only="probe")
        roles = {**state.roles, CHAMPION: state.policy, CANDIDATE: state.policy}
        return dataclasses.replace(state, roles=roles, stores={**state.stores, **stores})

    def judge(self, recipe: "Recipe", state: RoundState, do: "Stages", measured: "Stages") -> "Judged | None":
        """The round's candidate, judged; None if the round made none."""
        candidate = state.policy
        if candidate == state.roles[CHAMPION]:
            return None
        found = self._measured(recipe, state, do, measured)
        verdict = do.gate(self._inputs(state, do, measured, found), look=state.round)
        stores = {**state.stores, **_named("latest", found, only="probe")}
        roles = {**state.roles, CANDIDATE: candidate}
        said = {name: value for name, value in verdict.metrics.items() if "." not in name and name != "promoted"}
        failed = ", ".join(name for name, value in said.items() if value < 1 and (value == 0 or 0 not in said.values()))
        # A plan does not know what gates will say: it goes on as if they let the candidate pass, to the end of the round it plans.
        if verdict.metrics.get("promoted", 1.0):
            state = dataclasses.replace(state, roles={**roles, CHAMPION: candidate}, stores={**stores, **_named(CHAMPION, found)})
            return Judged(verdict=verdict, promoted=True, action="promote", candidate=candidate, state=state, note="")
        if self.on_fail == "continue":
            note = f"not promoted: {failed}; it is the next parent all the same"
            kept = dataclasses.replace(state, roles=roles, stores=stores)
            return Judged(verdict=verdict, promoted=False, action="continue", candidate=candidate, state=kept, note=note)
        kept = dataclasses.replace(state, roles={**roles, "policy": state.roles[CHAMPION]}, stores=stores)
        note = f"not promoted: {failed}; the champion is kept"
        stop = f"round {state.round} is not promoted: {failed}; stopped as gates.on_fail=stop says"
        stop += f" (`ratchet fork NAME --round {state.round} --as NEW gates.on_fail=keep` goes on from the champion)"
        return Judged(
            verdict=verdict,
            promoted=False,
            action=self.on_fail,
            candidate=candidate,
            state=kept,
            note=note,
            stop=stop if self.on_fail == "stop" else None,
        )

    def _measured(self, recipe: "Recipe", state: RoundState, do: "Stages", measured: "Stages | None") -> dict[str, Artifact]:
        """What a policy answered: on the held-out problems, by the labels, on the benchmarks and on the probe."""
        watched = do.taking(**state.roles)
        if measured is None or self.split != "test":
            measured = watched.serving("gates").on(self.split)
            recipe.measure(state, measured)
        found = {what: measured.taken[what][-1] for what in ("greedy", "sampled") if measured.taken.get(what)}
        if self.labelled and "greedy" in found:
            found["labelled"] = watched.serving("gates").verify(found["greedy"], using="gates.labelled")
        for name in self.benchmarks:
            found[f"benchmark.{name}"] = _answers(state.policy, f"gates.benchmarks.{name}", watched.serving(f"benchmark {name}"))
        if self.probe:
            found["probe"] = _answers(state.policy, "gates.probe", watched.serving("probe"))
        return found

    def _inputs(self, state: RoundState, do: "Stages", measured: "Stages", found: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """All that the gates look at, by name."""
        inputs = {f"{CANDIDATE}.{what}": artifact for what, artifact in found.items()}
        for who in (CHAMPION, "start"):
            prefix = f"{STORED}.{who}."
            inputs |= {f"{who}.{name.removeprefix(prefix)}": made for name, made in state.stores.items() if name.startswith(prefix)}
        for past in state.history:
            if answers := past.stores.get(f"{STORED}.latest.probe"):
                inputs[f"past.{past.round}"] = answers
        for what in ("examples", "rollouts"):
            distinct = {artifact.identity: artifact for artifact in do.taken.get(what, ())}
            inputs |= {f"{what}.{number}": artifact for number, artifact in enumerate(distinct.values())}
        return inputs | self._held_out(do, measured)

    def _held_out(self, do: "Stages", measured: "Stages") -> dict[str, Artifact]:
        """The problems that may not be trained on."""
        problems = [*measured.taken.get("problems", ())]
        if self.split != "test":
            problems.append(do.serving("gates").propose(split=self.split))
        problems += [do.serving(f"benchmark {name}").propose(using=f"gates.benchmarks.{name}.task") for name in self.benchmarks]
        if self.probe:
            problems.append(do.serving("probe").propose(using="gates.probe.task"))
        distinct = {artifact.identity: artifact for artifact in problems}
        return {f"problems.{number}": artifact for number, artifact in enumerate(distinct.values())}


def _answers(policy: Artifact, where: str, do: "Stages") -> Artifact:
    """A policy's greedy answers to a task of the gates' own, judged by its own verifier, or the run's where it has none."""
    judge = f"{where}.verification" if do.part(where)["verification"] is not None else "verification"
    return do.verify(do.synthesize(policy, do.propose(using=f"{where}.task"), samples=1, temperature=0.0), using=judge)


def _named(who: str, found: Mapping[str, Artifact], *, only: str | None = None) -> dict[str, Artifact]:
    return {f"{STORED}.{who}.{what}": artifact for what, artifact in found.items() if only in (None, what)}
