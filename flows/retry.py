"""`ratchet retry`: take a round's artifacts, and all of the run that was made from them, out of the store, so that they are made again.

What is set aside is kept under `.ratchet/quarantine/`, and a `retried` event says so. Corrupted artifacts are the main case: nothing
here reads what an artifact holds. A stage of another run that shares one is made again too, when that run is next continued.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratchet.errors import InputError, RatchetError
from ratchet.flows.collected import collected
from ratchet.flows.states import forked_from
from ratchet.flows.units import Asked, asked, chosen, claim_of
from ratchet.infra.claims import Lock
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.stores import held, store_of


def set_aside(run: RunFolder, round: int, verb: str | None) -> list[str]:
    """Set a round's stages aside (only a verb's, if one is given) and what depends on them; returns the titles of those that were there."""
    run.opening()
    _refuse_what_was_taken_over(run, round)
    store = store_of(run)
    gone = collected(run.ledger)
    with held(run, store) as check:
        stages = asked(run.ledger, store)
        doomed = dependents(stages, _first(stages, chosen(stages, round, verb), verb))
        units = {identity: title for stage in doomed for identity, title in stage.units.items()}
        units |= dict(_states(run, round))
        there = {identity: title for identity, title in units.items() if store.has(identity) or identity in gone}
        # Last made, first taken: whenever this is cut short, what stays has all its inputs.
        for identity in reversed([identity for identity in there if store.has(identity)]):
            store.quarantine(identity)
        for identity in units:
            _forget_checkpoints(store, identity)
        if there:
            check()
            run.ledger.append("retried", round=round, verb=verb, identities=list(there), titles=list(there.values()))
    return [title for title in there.values() if " · shard " not in title]


def _refuse_what_was_taken_over(run: RunFolder, round: int) -> None:
    forked = forked_from(run)
    if forked and round <= forked["round"]:
        raise InputError(
            f"round {round} of {run.name} is that of {forked['run']}, from which it was forked after round {forked['round']}",
            got=f"--round {round}",
            allowed=f"{forked['round'] + 1} and later",
            next=f"`ratchet retry {forked['run']} --round {round}` makes it again there",
        )


def _first(stages: Sequence[Asked], wanted: Sequence[Asked], verb: str | None) -> list[Asked]:
    """The stages that are set aside for their own sake: of a whole round not those that an earlier round had asked for already."""
    if verb is not None:
        return list(wanted)
    before = {stage.identity for stage in stages if stage.round < wanted[0].round}
    return [stage for stage in wanted if stage.identity not in before]


def dependents(stages: Sequence[Asked], first: Sequence[Asked]) -> list[Asked]:
    """The first ones and every stage asked later that has one of them, directly or not, among its inputs, in the order they were asked.

    A controller's knobs are no input but a field of later components: all that its round asked after it depends on it.
    """
    doomed: list[Asked] = []
    digests: set[str] = set()
    adjusted: set[int] = set()
    for stage in stages:
        if stage in first or (stage.round in adjusted and stage.inputs) or (doomed and digests & set(_digests(stage.inputs))):
            doomed.append(stage)
            digests |= stage.digests
            if stage.verb == "adjust":
                adjusted.add(stage.round)
    return doomed


def _digests(inputs: Mapping[str, Any]) -> Iterator[str]:
    for given in inputs.values():
        if isinstance(given, Mapping):
            yield from given.values()
        else:
            yield given


def _states(run: RunFolder, round: int) -> Iterator[tuple[str, str]]:
    """The states that the run had reached from the round on: they are published as artifacts too."""
    for event in run.ledger:
        if event["kind"] == "advanced" and event["round"] >= round:
            yield event["state"], f"round {event['round']} · state"


def _forget_checkpoints(store: Store, identity: str) -> None:
    """A new attempt starts afresh, not from the checkpoints of the one that is set aside; unless a job is at it right now."""
    claim = claim_of(store, identity)
    if claim.scratch.exists():
        with Lock(claim.folder / "run.lock") as lock:
            if lock.try_acquire():
                shutil.rmtree(claim.scratch, ignore_errors=True)


def with_command(run: RunFolder, error: RatchetError) -> RatchetError:
    """The error; where it names a corrupted artifact of the run, with the very `retry` that makes it again."""
    text = str(error)
    found = re.search(r"corrupted artifact .*?objects/([0-9a-f]{32})", text)
    if not found:
        return error
    stages = asked(run.ledger, store_of(run))
    stage = next((stage for stage in stages if found[1] in stage.units), None)
    state = next((e for e in run.ledger if e["kind"] == "advanced" and e["state"] == found[1]), None)
    if stage or state:
        round = stage.round if stage else state["round"] if state else 0
        forked = forked_from(run)
        name = forked["run"] if forked and round <= forked["round"] else run.name
        words = f"--round {round}" + (f" --stage {stage.verb}" if stage else "")
        error.args = (text.replace("ratchet retry NAME --round K [--stage VERB]", f"ratchet retry {name} {words}"),)
    return error
