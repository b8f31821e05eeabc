"""One verb applied once: what a stage is, and for each verb the place where records meet files.

A stage's identity is the hash of its verb, component, inputs' digests, seed (where the verb draws) and shard. Where it stands in a
run (round, ordinal, grid cell) is how people call it, not what it is: two runs that agree on the former share the artifact.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ratchet.artifacts import RECORDS, SCHEMA, Artifact, Grid, Opened
from ratchet.errors import InputError
from ratchet.identity import canonical, construct, derive_seed, describe, digest, identity_of
from ratchet.records import OUTCOMES, Record, Rollout, kind_of, line_of, read_rows
from ratchet.yields import yields

KNOBS, REPORT, ITEMS, CELLS, STATE, VERDICTS = "knobs.json", "report.json", "items.jsonl", "cells.jsonl", "state.json", "verdicts.jsonl"

SHARDED_INPUT = {"synthesize": "problems", "verify": "rollouts"}
"""Verb → the record input that shards cut."""

SEEDED = {"create", "synthesize", "train"}
"""Verbs that draw random numbers unless their component says otherwise (`seeded`)."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A verb, its component and its inputs: the unit of work."""

    verb: str
    component: Any
    inputs: Mapping[str, Artifact | Grid]
    seed: int | None = None
    shard: tuple[int, int] | None = None
    """(index, count), for one shard of a stage."""
    round: int = 0
    ordinal: int = 0
    """How many times the round called this verb before."""
    cell: str | None = None
    """`field=value` of a grid."""
    purpose: str = ""
    """What it serves when that is not the round itself, such as `evaluation`."""

    @property
    def title(self) -> str:
        """What people call it: `round 2 · synthesize · temperature=0.7 · shard 3/8`."""
        purpose = f" · {self.purpose}" if self.purpose else ""
        ordinal = f" #{self.ordinal + 1}" if self.ordinal else ""
        cell = f" · {self.cell}" if self.cell else ""
        shard = f" · shard {self.shard[0] + 1}/{self.shard[1]}" if self.shard else ""
        return f"round {self.round}{purpose} · {self.verb}{ordinal}{cell}{shard}"

    @cached_property
    def description(self) -> dict[str, Any]:
        return describe(self.component)

    @cached_property
    def essence(self) -> dict[str, Any]:
        """Everything that makes it what it is; its hash is the identity, its differences are what `plan` explains."""
        return {
            "schema": SCHEMA,
            "verb": self.verb,
            "component": identity_of(self.description),
            "inputs": {name: _digests(given) for name, given in self.inputs.items()},
            "seed": self.seed,
            "shard": list(self.shard) if self.shard else None,
        }

    @cached_property
    def identity(self) -> str:
        return digest(self.essence)

    def spec(self) -> dict[str, Any]:
        """What a job needs to do the work, as plain data."""
        return {
            "title": self.title,
            "round": self.round,
            "identity": self.identity,
            "verb": self.verb,
            "component": self.description,
            "inputs": {name: _identities(given) for name, given in self.inputs.items()},
            "digests": self.essence["inputs"],
            "seed": self.seed,
            "shard": list(self.shard) if self.shard else None,
        }

    def shards(self) -> list["Stage"]:
        """The shards it is made of; none if its component does not shard or one shard would do."""
        given = self.inputs.get(SHARDED_INPUT.get(self.verb, ""))
        if self.shard or not isinstance(given, Artifact):
            return []
        count = len(cuts(self.component, given.rows, given.groups))
        seeds = [derive_seed(self.seed, index) if self.seed is not None else None for index in range(count)]
        return [dataclasses.replace(self, shard=(index, count), seed=seeds[index]) for index in range(count) if count > 1]


def purpose_of(verb: str, title: str) -> str:
    """What a stage of a verb serves, read from its title: `round 1 · evaluation · verify #2`; empty: the round itself."""
    second = title.split(" · ")[1]
    return "" if second.partition(" #")[0] == verb else second


def cuts(component: Any, rows: int, groups: Sequence[tuple[str, int]]) -> list[slice]:
    """Where a component's shards begin and end in so many rows: a shard a group, or one for every `rows_per_shard` rows."""
    if getattr(component, "shard_by_group", False) and groups:
        sizes = [size for _, size in groups]
        return [slice(end - size, end) for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    size = getattr(component, "rows_per_shard", None) or max(rows, 1)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _digests(given: Artifact | Grid) -> Any:
    return given.digest if isinstance(given, Artifact) else {key: cell.digest for key, cell in given.items()}


def _identities(given: Artifact | Grid) -> Any:
    return given.identity if isinstance(given, Artifact) else {key: cell.identity for key, cell in given.items()}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Where a stage writes: a folder that becomes the artifact, and a scratch folder that outlives a killed attempt."""

    folder: Path
    scratch: Path
    progress: Callable[[int], None] = field(default=lambda rows: None)
    """Told how many rows are written so far."""

    def write(self, records: Iterable[Record], empty: str) -> tuple[str, int]:
        """Stream records to disk; return their kind (`empty` if there are none) and count."""
        head, records = _peek(records)
        count = 0
        with (self.folder / RECORDS).open("w", encoding="utf-8") as lines:
            for count, record in enumerate(records, start=1):
                lines.write(line_of(record) + "\n")
                self.progress(count)
        return (kind_of(head) if head is not None else empty), count

    def write_json(self, name: str, value: object) -> None:
        (self.folder / name).write_bytes(canonical(value) + b"\n")

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        (self.folder / name).write_bytes(b"".join(canonical(dict(row)) + b"\n" for row in rows))


def _peek(records: Iterable[Record]) -> tuple[Record | None, Iterator[Record]]:
    iterator = iter(records)
    head = next(iterator, None)
    return head, iterator if head is None else itertools.chain([head], iterator)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A stage's inputs, opened."""

    inputs: Mapping[str, Opened | Mapping[str, Opened]]
    component: Any = None
    """Whose fields say where shards are cut."""
    shard: tuple[int, int] | None = None

    def one(self, name: str) -> Opened:
        found = self.inputs[name]
        if not isinstance(found, Opened):
            raise InputError(f"the input {name} is a grid where one artifact is needed", next="reduce it with `adjust` first")
        return found

    def folder(self, name: str) -> Path:
        return self.one(name).folder

    def records(self, name: str) -> list[Any]:
        """An input's rows; of a sharded stage, those of the shard."""
        opened = self.one(name)
        rows = list(opened.records())
        return rows[cuts(self.component, len(rows), opened.manifest.groups)[self.shard[0]]] if self.shard else rows

    def cells(self, name: str) -> dict[str, list[Any]]:
        found = self.inputs[name]
        if isinstance(found, Opened):
            raise InputError(f"the input {name} is one artifact where a grid is needed", next="synthesize with over={field: values}")
        return {key: list(cell.records()) for key, cell in found.items()}

    def roles(self) -> dict[str, Path]:
        return {name.removeprefix("role:"): self.folder(name) for name in self.inputs if name.startswith("role:")}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a stage wrote."""

    kind: str
    rows: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    groups: tuple[tuple[str, int], ...] = ()


def run(spec: Mapping[str, Any], open: Callable[[str], Opened], draft: Draft) -> Made:
    """Do a stage's work: build its component from the spec, open its inputs, write its draft."""
    component = construct(spec["component"])
    inputs = {
        name: {key: open(cell) for key, cell in given.items()} if isinstance(given, dict) else open(given) for name, given in spec["inputs"].items()
    }
    shard = (spec["shard"][0], spec["shard"][1]) if spec["shard"] else None
    given = Given(inputs=inputs, component=component, shard=shard)
    return VERBS[spec["verb"]](component, given, draft, spec["seed"] if spec["seed"] is not None else 0)


def propose(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    groups = dict[str, int]()
    kind, rows = draft.write(_grouped(part.propose(), groups), "problems")
    if not rows:
        raise InputError(
            f"the task has no problems in its {getattr(part, 'split', 'chosen')} split", next="give a task with at least one problem per split"
        )
    return Made(kind=kind, rows=rows, metrics={"problems": rows}, groups=tuple(groups.items()))


def _grouped(records: Iterable[Record], groups: dict[str, int]) -> Iterator[Record]:
    """The same records; how many stand in each group is counted."""
    last: str | None = None
    for number, record in enumerate(records, start=1):
        group = getattr(record, "group", None)
        if number > 1 and group != last and (group is None or last is None or group in groups):
            raise InputError(f"row {number} is of group {group!r} after one of {last!r}", allowed="every row in a group, a group's rows together")
        if group is not None:
            groups[group] = groups.get(group, 0) + 1
        last = group
        yield record


def create(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    examples = given.records("examples") if "examples" in given.inputs else []
    metrics = part.create(examples, out=draft.folder, scratch=draft.scratch, seed=seed)
    return Made(kind="policy", metrics=metrics)


def synthesize(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    totals = dict.fromkeys(("rollouts", "tokens", "unfinished"), 0)

    def counted() -> Iterator[Rollout]:
        for rollout in part.synthesize(given.folder("policy"), given.records("problems"), seed=seed, scratch=draft.scratch):
            totals["rollouts"] += 1
            totals["tokens"] += rollout.tokens
            totals["unfinished"] += not rollout.finished
            yield rollout

    kind, rows = draft.write(counted(), "rollouts")
    return Made(kind=kind, rows=rows, metrics=totals)


def verify(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    totals = dict.fromkeys(("rollouts", *OUTCOMES, "reward_sum"), 0.0)
    rollouts = given.records("rollouts")

    def counted() -> Iterator[Rollout]:
        for rollout in part.verify(rollouts, roles=given.roles()):
            totals["rollouts"] += 1
            totals[str(rollout.outcome)] += 1
            totals["reward_sum"] += rollout.reward or 0.0
            yield rollout

    kind, rows = draft.write(counted(), "rollouts")
    if rows != len(rollouts):
        what = f"{type(part).__name__}.verify gave {rows} rollouts for {len(rollouts)}"
        raise InputError(what, allowed="as many as it was given, in their order")
    return Made(kind=kind, rows=rows, metrics=totals)


def select(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    rollouts = [row for name in given.inputs if not name.startswith("role:") for row in given.records(name)]
    groups = dict[str, int]()
    kind, rows = draft.write(_grouped(part.select(rollouts), groups), "demonstrations")
    return Made(kind=kind, rows=rows, metrics={"given": len(rollouts), "kept": rows, **yields(rollouts)}, groups=tuple(groups.items()))


def train(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    metrics = part.train(given.folder("policy"), given.records("examples"), out=draft.folder, scratch=draft.scratch, seed=seed)
    return Made(kind="policy", metrics=metrics)


def evaluate(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    sampled = given.records("sampled") if "sampled" in given.inputs else []
    report = part.evaluate(given.records("greedy"), sampled)
    draft.write_json(REPORT, report.metrics)
    draft.write_rows(ITEMS, report.items)
    for name, content in report.files.items():
        (draft.folder / name).write_bytes(content)
    return Made(kind="report", rows=len(report.items), metrics=report.metrics)


def adjust(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    decision = part.adjust(given.cells("cells"), given.records("problems"))
    draft.write_json(KNOBS, decision.knobs)
    draft.write_rows(CELLS, decision.cells)
    return Made(kind="knobs", rows=len(decision.cells), metrics=decision.metrics)


def gate(part: Any, given: Given, draft: Draft, seed: int) -> Made:
    judgement = part.judge({name: given.records(name) for name in given.inputs})
    draft.write_rows(VERDICTS, map(asdict, judgement.verdicts))
    metrics = {"promoted": float(judgement.promoted)}
    for said in judgement.verdicts:
        metrics |= {said.name: {"pass": 1.0, "inconclusive": 0.5, "fail": 0.0}[said.verdict]}
        metrics |= {f"{said.name}.{name}": float(value) for name, value in said.numbers.items()}
    return Made(kind="verdict", rows=len(judgement.verdicts), metrics=metrics)


VERBS: dict[str, Callable[[Any, Given, Draft, int], Made]] = {
    verb.__name__: verb for verb in (propose, create, synthesize, verify, select, train, evaluate, adjust, gate)
}


def knobs_of(opened: Opened) -> dict[str, float]:
    """What the controller decided in an artifact of kind `knobs`."""
    found: dict[str, float] = json.loads((opened.folder / KNOBS).read_text())
    return found


def verdicts_of(opened: Opened) -> list[dict[str, Any]]:
    """What each gate said in an artifact of kind `verdict`."""
    return [row for _, row in read_rows(opened.folder / VERDICTS)]
