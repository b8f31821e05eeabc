"""Round states read back from a ledger, as the loop wants them: where a run that was forked from another begins."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ratchet.artifacts import Artifact
from ratchet.errors import CorruptArtifact, InputError
from ratchet.infra.ledger import Event
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.rounds import RoundState


def forked_from(run: RunFolder) -> Mapping[str, Any] | None:
    """Of a fork: the `run` it was forked from, after which `round`, in which `state`; None for a run that began by itself, or not yet."""
    return next((event.get("forked") for event in run.ledger if event["kind"] == "run"), None)


def is_whole(run: RunFolder) -> bool:
    """Whether a fork's ledger says all of what it took over."""
    forked = forked_from(run)
    return forked is None or any(event["kind"] == "advanced" and event["round"] == forked["round"] for event in run.ledger)


def begun(run: RunFolder, store: Store) -> RoundState | None:
    """The state that a fork goes on from, with the ones before it; None for a run that begins with its recipe's `start`.

    Nothing is asked of a stage and nothing made: what the taken over rounds published is looked up by what their states point to.
    """
    forked = forked_from(run)
    if forked is None:
        return None
    if not is_whole(run):
        what = f"the fork {run.name} was cut short before it had all of the rounds 0 to {forked['round']} of {forked['run']}"
        raise InputError(what, next="give the same `ratchet fork` again")
    ended = [event for event in run.ledger if event["kind"] == "advanced" and event["round"] <= forked["round"]]
    *past, last = [_state(run, store, forked, event) for event in ended]
    return dataclasses.replace(last, history=tuple(past))


def _state(run: RunFolder, store: Store, forked: Mapping[str, Any], event: Event) -> RoundState:
    def artifacts(pointers: Mapping[str, Mapping[str, str]]) -> dict[str, Artifact]:
        return {name: _artifact(run, store, forked, f"{name} of round {event['round']}", pointer) for name, pointer in pointers.items()}

    return RoundState(
        round=event["round"],
        roles=artifacts(event["roles"]),
        stores=artifacts(event["stores"]),
        knobs=event["knobs"],
        metrics=event["metrics"],
    )


def _artifact(run: RunFolder, store: Store, forked: Mapping[str, Any], what: str, pointer: Mapping[str, str]) -> Artifact:
    """What a state points to, as long as it is there and still what it was."""
    manifest = store.find(pointer["identity"])
    if manifest is not None and manifest.digest == pointer["digest"]:
        return manifest.artifact
    if manifest is None:
        amiss, then = "is not in the store: it was set aside", f"`ratchet resume {forked['run']}` makes it again"
    else:
        amiss, then = "is not what it was: it was made again and came out otherwise", f"fork {forked['run']} anew, under another name"
    where = f"{store.object(pointer['identity'])}, {what}, which {run.name} took over from {forked['run']},"
    raise CorruptArtifact(f"{where} {amiss}\n  next: {then}")
