"""`ratchet gc`: delete the artifacts that no run needs any more, and say of each why it may go.

A run needs, whole: its round 0, its champion, what was promoted by hand, its last K rounds, and what it has not finished. It needs
besides what the states of those rounds and of the champion before point to, and of every round the little that the loop and the
tables read: problems, decisions, reports, states. What one run needs no other loses. The ledger keeps of a deleted artifact what the
loop asks of one (`collected.py`), so the same command goes on as before; only a stage that reads a deleted artifact has it made again.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.artifacts import Artifact
from ratchet.champions import BY
from ratchet.errors import CorruptArtifact, InputError, RunHeld
from ratchet.flows.collected import event_of
from ratchet.flows.delete import in_words, referenced, refuse_while_jobs_work
from ratchet.flows.states import forked_from
from ratchet.flows.summary import RunSummary, summary_of
from ratchet.flows.units import Asked, asked
from ratchet.infra.runs import RunFolder, runs_under
from ratchet.infra.store import Leftover, Store
from ratchet.infra.stores import Spec, enter, follow, held, known_runs, place_of, recorded

KEPT_VERBS = ("propose", "adjust", "evaluate", "gate")
"""Verbs whose artifacts are small and are read again whenever the loop walks the recipe or a table is made."""

ORPHANED_S = 24 * 3600.0
"""What no ledger names after this long is nobody's; before, a run that is just beginning may be about to."""


@dataclass(kw_only=True)
class Needs:
    """What a run needs, and what it does not."""

    run: RunFolder
    kept: dict[int, str]
    """Round → why it is kept whole."""
    needed: set[str] = field(default_factory=set[str])
    going: dict[str, str] = field(default_factory=dict[str, str])
    """Identity → title, of what the run asked for and does not need."""


def gc(root: Path, names: Sequence[str], *, keep_last: int, metric: str | None, really: bool) -> int:
    """Collect some runs' artifacts, or all runs' and what is nobody's; says what goes, and only with `really` lets it go."""
    if keep_last < 1:
        raise InputError("--keep-last has a wrong value", got=keep_last, allowed="1 or more: the next round starts from the last")
    chosen = [_named(root, name) for name in names] or runs_under(root)
    places: dict[str, Spec | None] = {place_of(recorded(run)): recorded(run) for run in chosen}
    for place, spec in places.items():
        mine = [run for run in chosen if place_of(recorded(run)) == place]
        _collect(root, spec, mine, whole=not names, keep_last=keep_last, metric=metric, really=really)
    if not places:
        sys.stdout.write(f"no runs under {root} yet\n")
    return 0


def _named(root: Path, name: str) -> RunFolder:
    run = RunFolder(root, name)
    run.opening()
    return run


def _collect(root: Path, spec: Spec | None, runs: Sequence[RunFolder], *, whole: bool, keep_last: int, metric: str | None, really: bool) -> None:
    """Collect what runs of one store do not need; with `whole` also what is left in the store and is nobody's."""
    store = enter(runs[0], spec)
    with ExitStack() as stack:
        mine, others = [], [run for run in known_runs(root, store) if run not in runs]
        for run in runs:
            try:
                follow(run, store)
                stack.enter_context(held(run, store, watch=False))
                refuse_while_jobs_work(store, run)
                mine.append(needs_of(run, store, keep_last, metric))
            except RunHeld as error:
                if not whole:
                    raise
                sys.stdout.write(f"{run.name} is kept whole: {str(error).splitlines()[0]}\n")
                others.append(run)
        foreign = {identity for run in others for identity in referenced(run.ledger, store)}
        needed = foreign.union(*(needs.needed for needs in mine))
        going = _going(store, mine, needed)
        size = _say(store, mine, going, foreign)
        known = foreign.union(*(referenced(needs.run.ledger, store) for needs in mine))
        orphans = sorted(store.identities(ORPHANED_S) - known) if whole else []
        leftovers = [left for left in store.leftovers() if left.identity not in foreign] if whole else []
        size += _say_nobodys(store, orphans, leftovers)
        count = len({identity for gone in going.values() for identity in gone}) + len(orphans)
        said = f"{count} artifacts and {len(leftovers)} leftovers, {in_words(size)}, of {place_of(spec) or root}"
        if not really:
            sys.stdout.write(f"would delete {said}\n" + ("  next: add --yes\n" if count or leftovers else ""))
            return
        _delete(store, mine, going, orphans, leftovers)
        sys.stdout.write(f"deleted {said}\n")


def needs_of(run: RunFolder, store: Store, keep_last: int, metric: str | None = None) -> Needs:
    """What a run needs of what it asked for; a metric says of which its best round is kept beside its champion."""
    summary = summary_of(run)
    rounds = {row.round: row for row in summary.rounds}
    stages = asked(run.ledger, store)
    needs = Needs(run=run, kept=_kept_rounds(summary, keep_last, metric))
    for row in rounds.values():
        needs.needed |= {row.state, row.report}
    for index in (*needs.kept, *(crowning.round for crowning in summary.crownings[-2:-1])):
        needs.needed |= _pointed_at(run, index)
    forked = forked_from(run)
    for index in rounds if forked else ():  # a fork begins from the states that it took over, all of them
        needs.needed |= _pointed_at(run, index) if index <= (forked or {})["round"] else set()
    for stage in stages:
        if stage.round in needs.kept or stage.round not in rounds or stage.verb in KEPT_VERBS:
            needs.needed |= set(stage.units)
    needs.needed |= {shard for stage in stages if stage.identity in needs.needed for shard in stage.shards}
    needs.going = {identity: title for identity, title in _titles(stages, run, store).items() if identity not in needs.needed}
    return needs


def _kept_rounds(summary: RunSummary, keep_last: int, metric: str | None) -> dict[int, str]:
    """The rounds that are kept whole, each with the reason."""
    rounds = {row.round: row for row in summary.rounds}
    kept = dict.fromkeys(sorted(rounds)[-keep_last:], "last")
    measured = [row for row in rounds.values() if metric in row.metrics]
    if metric and measured:
        best = max(measured, key=lambda row: (row.metrics[metric], -row.round))
        kept[best.round] = f"best: {metric} {best.metrics[metric]:.3f}"
    for promoted in summary.promoted:
        if promoted["model"] and rounds.get(promoted["round"]) and rounds[promoted["round"]].state == promoted["state"]:
            kept[promoted["round"]] = f"promoted as {promoted['model']}"
    for crowning in summary.crownings[-1:]:
        kept[crowning.round] = f"champion: {BY[crowning.by]}"
    return {**kept, **({0: "round 0"} if 0 in rounds else {})}


def _pointed_at(run: RunFolder, index: int) -> set[str]:
    """What plays a role, or is a store, in the state that a round ended in."""
    events = [event for event in run.ledger if event["kind"] == "advanced" and event["round"] == index]
    return {pointer["identity"] for event in events[-1:] for pointer in (*event["roles"].values(), *event["stores"].values())}


def _titles(stages: Sequence[Asked], run: RunFolder, store: Store) -> dict[str, str]:
    """All that a run's ledger names, each with what people call it; what it would not ask for any more is superseded."""
    titles = {identity: title for stage in stages for identity, title in stage.units.items()}
    before = {event["identity"]: f"{event['title']} (superseded)" for event in run.ledger if "identity" in event and "title" in event}
    return {identity: titles.get(identity) or before.get(identity, "superseded") for identity in referenced(run.ledger, store)}


def _going(store: Store, mine: Sequence[Needs], needed: set[str]) -> dict[str, dict[str, Artifact | None]]:
    """For each run, what it asked for that is published and that nobody needs; None for what cannot be read."""
    published = store.identities()
    return {needs.run.name: {i: _artifact(store, i) for i in needs.going if i in published and i not in needed} for needs in mine}


def _artifact(store: Store, identity: str) -> Artifact | None:
    try:
        manifest = store.find(identity)
    except CorruptArtifact:
        return None
    return manifest.artifact if manifest else None


def _say(store: Store, mine: Sequence[Needs], going: Mapping[str, Mapping[str, Artifact | None]], foreign: set[str]) -> int:
    """Say, run by run, which rounds are kept and why, and each artifact that goes; returns the bytes, each artifact counted once."""
    total, counted = 0, set[str]()
    for needs in mine:
        kept = ", ".join(f"round {index} ({why})" if why != f"round {index}" else why for index, why in sorted(needs.kept.items()))
        sys.stdout.write(f"{needs.run.name}: keeps {kept or 'all, since no round has ended'}\n")
        shared = sum(identity in foreign for identity in needs.going)
        for identity, artifact in sorted(going[needs.run.name].items(), key=lambda item: needs.going[item[0]]):
            size = store.size(identity)
            total += 0 if identity in counted else size
            counted.add(identity)
            sys.stdout.write(f"  {identity[:8]}  {artifact.kind if artifact else 'unreadable':<14}  {in_words(size):>9}  {needs.going[identity]}\n")
        if shared:
            sys.stdout.write(f"  {shared} more stay for other runs that refer to them\n")
    return total


def _say_nobodys(store: Store, orphans: Sequence[str], leftovers: Sequence[Leftover]) -> int:
    sizes = {identity: store.size(identity) for identity in orphans}
    for identity, size in sizes.items():
        sys.stdout.write(f"  {identity[:8]}  {in_words(size):>9}  an artifact that no run's ledger names\n")
    for left in leftovers:
        sys.stdout.write(f"  {left.identity[:8]}  {in_words(left.bytes):>9}  {left.why}: {left.where}\n")
    return sum(sizes.values()) + sum(left.bytes for left in leftovers)


def _delete(
    store: Store,
    mine: Sequence[Needs],
    going: Mapping[str, Mapping[str, Artifact | None]],
    orphans: Sequence[str],
    leftovers: Sequence[Leftover],
) -> None:
    """The ledgers first: what is deleted without their knowing would be made again."""
    for needs in mine:
        if known := [artifact for artifact in going[needs.run.name].values() if artifact]:
            needs.run.ledger.append("collected", **event_of(known))
    for identity in dict.fromkeys([*_shards_first(mine, going), *orphans]):
        store.remove(identity)
    for left in leftovers:
        store.discard(left)


def _shards_first(mine: Sequence[Needs], going: Mapping[str, Mapping[str, Artifact | None]]) -> Iterator[str]:
    """A sharded artifact's manifest is what names its shards."""
    for needs in mine:
        yield from sorted(going[needs.run.name], key=lambda identity: " · shard " not in needs.going[identity])
