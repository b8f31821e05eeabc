"""How well a policy finds its way on held-out problems: success, SPL and what else the environment measures of each walk.

Of the greedy rollouts, means over problems:

- `success`, `oracle_success`, `success_3m` (where the environment has it), `spl`, `ndtw`: 0 for what is no walk; for an agent that was
  cut before it stopped all but `oracle_success` and `ndtw` are 0, as for the verifier;
- `error`, `length` (environment's lengths) and `steps` (places passed after the start): over the rollouts that are walks;
- `unfinished`, `unparsed`: shares that were cut, and that are no walk.

Of the sampled ones `sampled_success` and `sampled_spl` (mean over a problem's K, then over problems), and `pass_at_K`: the share of
problems with a success among them.

`yield.GROUP` = successes / attempts of a group's sampled rollouts (greedy ones if there are none): how much a round of demonstrations
would get from a scan, and thereby SID's sign of saturation (2509.24910). It and the counts have no interval; the others have `.low` and
`.high`: Wilson's where a problem counts 0 or 1, else the bootstrap over problems. Problems of a scan are alike, so that intervals are
too narrow for a claim about other scans.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ratchet.components.evaluation.drawn import check_drawn
from ratchet.components.evaluation.floor_plans import draw
from ratchet.components.evaluation.intervals import Intervals
from ratchet.components.self_training.selection import by_problem
from ratchet.components.verification.goal import episode_of, path_of
from ratchet.errors import InputError
from ratchet.protocols import Report
from ratchet.records import Rollout

SHARES = ("success", "oracle_success", "success_3m")
STOPPED = ("success", "success_3m", "spl")
"""What only an agent that stopped can have."""
WALKED = ("error", "length", "steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class Walked:
    """A rollout and what the environment measures of it."""

    rollout: Rollout
    path: list[str]
    measured: Mapping[str, float] | None
    """None: it is no walk."""

    def value(self, name: str) -> float:
        return 0.0 if self.measured is None else self.measured[name]


@dataclass(frozen=True, kw_only=True)
class Navigation:
    """Measure walks by the environment they were made in."""

    headline = ("success", "spl")

    environment: Any
    """A `GraphEnvironment`."""
    samples: int
    """K rollouts of each problem besides the greedy one; 0: none."""
    temperature: float
    """At which the K are drawn."""
    pictures: int = 4
    """Trajectories to draw, of problems spread evenly over all."""
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    """Of the bootstrap, not of the rollouts."""

    def __post_init__(self) -> None:
        if self.samples < 0 or self.resamples < 1 or self.pictures < 0:
            got = (self.samples, self.resamples, self.pictures)
            raise InputError("samples, resamples and pictures count something", got=got, allowed="samples and pictures 0 or more, resamples 1")
        if self.samples and self.temperature <= 0:
            raise InputError("sampled rollouts need a temperature", got=self.temperature, allowed="above 0, or samples=0 for greedy ones alone")
        if not 0 < self.confidence < 1:
            raise InputError("a confidence is a share", got=self.confidence, allowed="between 0 and 1, such as 0.95")

    def evaluate(self, greedy: Sequence[Rollout], sampled: Sequence[Rollout]) -> Report:
        check_drawn(by_problem(greedy), by_problem(sampled), self.samples)
        first, drawn = [self._walked(rollout) for rollout in greedy], [self._walked(rollout) for rollout in sampled]
        intervals = Intervals(confidence=self.confidence, resamples=self.resamples, seed=self.seed)
        metrics = _measured(intervals, first) | _described(intervals, first)
        if self.samples:
            metrics |= self._solved(intervals, drawn)
        metrics |= _yields(drawn or first)
        return Report(metrics=metrics, items=[_item(walked) for walked in first], files=self._files(first))

    def _walked(self, rollout: Rollout) -> Walked:
        path = path_of(self.environment, rollout)
        if path is None:
            return Walked(rollout=rollout, path=[], measured=None)
        found = self.environment.judge(episode_of(rollout), path)
        cut = {} if rollout.finished else {name: 0.0 for name in STOPPED if name in found}
        return Walked(rollout=rollout, path=path, measured={**found, "steps": float(len(path) - 1), **cut})

    def _solved(self, intervals: Intervals, drawn: Sequence[Walked]) -> dict[str, float]:
        problems: dict[str, list[Walked]] = {}
        for walked in drawn:
            problems.setdefault(walked.rollout.problem_id, []).append(walked)
        found: dict[str, float] = {}
        for name in ("success", "spl"):
            found |= intervals.mean(f"sampled_{name}", [fmean(walked.value(name) for walked in group) for group in problems.values()])
        solved = [any(walked.value("success") for walked in group) for group in problems.values()]
        return found | intervals.share(f"pass_at_{self.samples}", solved)

    def _files(self, first: Sequence[Walked]) -> dict[str, bytes]:
        walks = [walked for walked in first if walked.measured is not None]
        count = min(self.pictures, len(walks))
        chosen = [walks[number * len(walks) // count] for number in range(count)]
        return {f"trajectory-{number}-{_plain(walked)}.png": self._drawn(walked) for number, walked in enumerate(chosen, start=1)}

    def _drawn(self, walked: Walked) -> bytes:
        episode = episode_of(walked.rollout)
        title = f"{walked.rollout.prompt[:90]}\n{_caption(walked)}"
        return draw(self.environment.floor(episode), path=walked.path, shortest=self.environment.shortest(episode), title=title)


def _measured(intervals: Intervals, first: Sequence[Walked]) -> dict[str, float]:
    """What the environment measures, name by name."""
    walks = [walked.measured for walked in first if walked.measured is not None]
    names = dict.fromkeys([*("success", "oracle_success", "spl", "ndtw"), *(name for measured in walks for name in measured if name == "success_3m")])
    found: dict[str, float] = {}
    for name in names:
        values = [walked.value(name) for walked in first]
        found |= intervals.share(name, [value == 1 for value in values]) if name in SHARES else intervals.mean(name, values)
    for name in WALKED:
        found |= intervals.mean(name, [measured[name] for measured in walks])
    return found


def _described(intervals: Intervals, first: Sequence[Walked]) -> dict[str, float]:
    found = intervals.share("unfinished", [not walked.rollout.finished for walked in first])
    return found | intervals.share("unparsed", [walked.measured is None for walked in first])


def _yields(walks: Sequence[Walked]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for walked in walks:
        if walked.rollout.group is not None:
            groups.setdefault(walked.rollout.group, []).append(walked.value("success"))
    return {f"yield.{group}": fmean(groups[group]) for group in sorted(groups)}


def _item(walked: Walked) -> dict[str, Any]:
    row = {"problem_id": walked.rollout.problem_id, "group": walked.rollout.group, "path": walked.path, "finished": walked.rollout.finished}
    return row | {"walk": walked.measured is not None, **{name: walked.value(name) for name in ("success", "spl")}}


def _caption(walked: Walked) -> str:
    ended = "cut before it stopped" if not walked.rollout.finished else "stopped at the goal" if walked.value("success") else "stopped elsewhere"
    return f"{ended} · success {walked.value('success'):.0f} · SPL {walked.value('spl'):.2f}"


def _plain(walked: Walked) -> str:
    """A problem's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", walked.rollout.problem_id)[:80]
