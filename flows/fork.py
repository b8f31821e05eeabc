"""`ratchet fork`: a new run that goes on after a round of another one, with other dials.

Rounds 0 to K of the fork are those of the run it is forked from, whatever the new dials would have made of them: what the ledger says
of them is copied, and the loop goes on from the last one's recorded state. Nothing that is copied is ever asked of a stage again, so
neither the other run's ledger nor its code is needed any more; the artifacts are shared, and kept for as long as either run is.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ratchet.errors import InputError, RunHeld
from ratchet.flows.compose import OPERATIONS, Config, compose, differing, science
from ratchet.flows.driver import opening_of, write_config
from ratchet.flows.states import is_whole
from ratchet.flows.summary import summary_of
from ratchet.identity import digest
from ratchet.infra.ledger import Event, Ledger
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.stores import enter, held, place_of, recorded

DRAFT = ".forking"


def dials(run: RunFolder, words: Sequence[str], config_dir: Path | None, *, name: str) -> tuple[Config, list[str]]:
    """The config of a fork: the run's own, with what the words change of it; and the words that stand for the whole."""
    recorded, given = dict(summary_of(run).config), run.opening()["words"]
    whole = together(given, words)
    config = changed(recorded, compose(given, config_dir), compose(whole, config_dir)) | {"name": name, "sweep": None}
    if not any(True for _ in differing(_of_interest(recorded), _of_interest(config))):
        what = f"nothing would be changed, so {name} would be {run.name} again"
        raise InputError(what, got=" ".join(words) or "no KEY=VALUE", next="give a dial another value, such as training.steps=80, seed=1 or rounds=8")
    return config, whole


def _of_interest(config: Mapping[str, Any]) -> Config:
    """What a fork may be made for: its science, or more rounds."""
    return {key: value for key, value in config.items() if key not in OPERATIONS - {"rounds"}}


def together(earlier: Sequence[str], later: Sequence[str]) -> list[str]:
    """Words after words: a later one replaces the same key, and a group chosen anew what was set in the one before."""
    keys = {_key(word) for word in later}
    chosen = {f"{key}." for key in keys if "." not in key}
    return [word for word in earlier if _key(word) not in keys and not any(_key(word).startswith(group) for group in chosen)] + [*later]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def changed(recorded: Any, before: Any, after: Any) -> Any:
    """A config, with what differs between two composed today; what does not differ stays as it was recorded."""
    if before == after:
        return recorded
    config = all(isinstance(value, Mapping) for value in (recorded, before, after))
    if not config or before.get("_target_") != after.get("_target_"):
        return after
    kept = {key: value for key, value in recorded.items() if key in after or key not in before}
    fresh = {key: value for key, value in after.items() if key not in before or before[key] != value}
    return kept | {key: changed(recorded.get(key), before.get(key), value) for key, value in fresh.items()}


def fork(run: RunFolder, new: RunFolder, config: Config, words: Sequence[str], *, round: int) -> int:
    """Write the new run's ledger up to the round, unless it is there: then make sure that it is this fork. Returns the rounds taken over."""
    opening, events = run.opening(), list(run.ledger)
    store = _shared_store(run, new, config)
    taken = taken_over(run.name, events, round)
    if config["rounds"] <= round:
        what = f"{new.name} would have no round of its own: it begins after round {round} and has {config['rounds']} rounds"
        raise InputError(what, got=f"--round {round}", next=f"fork after an earlier round, or add rounds={round + 1} or more")
    forked = {
        "run": run.name,
        "round": round,
        "state": taken[-1]["state"],
        "key": digest(opening),
        "opening": {key: opening.get(key) for key in ("config", "forked")},
    }
    with held(new, store):
        first = opening_of(new, config, words) | {"forked": forked}
        if not list(new.ledger) and store.runs is None:
            _write(new, taken, first)
        else:
            _append_missing(new, taken, first)
    with suppress(RunHeld):  # a driver that has the other run in hand goes on; the fork's own ledger says all
        _tell(run, new, store, round, forked["state"])
    return round + 1


def taken_over(name: str, events: Iterable[Event], round: int) -> list[Event]:
    """The events that say what rounds 0 to `round` of a run came to: the last stage at each place, what it published, how each round ended."""
    standing = _standing(events := list(events))
    if round not in standing:
        allowed = f"a round that has ended: {', '.join(map(str, standing)) or 'none yet'}"
        raise InputError(f"round {round} of the run {name} has not ended", got=f"--round {round}", allowed=allowed)
    places: dict[tuple[Any, ...], Event] = {}
    published: dict[str, Event] = {}
    for event in events[: 1 + events.index(standing[round])]:
        match event["kind"]:
            case "stage" if event["round"] <= round:
                places[event["round"], event["verb"], event["ordinal"], event["cell"]] = event
            case "decision" | "judged" if event["round"] <= round:
                places[event["kind"], event["round"]] = event
            case "published":
                published[event["identity"]] = {**event, "shared": True}
    wanted = {event["identity"] for event in places.values() if event["kind"] == "stage"}
    found = [*places.values(), *(event for identity, event in published.items() if identity in wanted)]
    found += [event for index, event in standing.items() if index <= round]
    return sorted(found, key=lambda event: int(event["number"]))


def _standing(events: Iterable[Event]) -> dict[int, Event]:
    """How each round ended that counts: not set aside since, and each built on the one before."""
    last: dict[int, Event] = {}
    for event in events:
        if event["kind"] == "advanced":
            last[event["round"]] = event
        elif event["kind"] == "retried":
            last = {index: ended for index, ended in last.items() if ended["state"] not in event["identities"]}
    found: dict[int, Event] = {}
    while (ended := last.get(len(found))) and (not found or ended["previous"] == found[len(found) - 1]["state"]):
        found[len(found)] = ended
    return found


def _shared_store(run: RunFolder, new: RunFolder, config: Config) -> Store:
    """The store of both runs, which have their artifacts in common."""
    there, wanted = (place_of(spec) or "the local store" for spec in (recorded(run), config.get("store")))
    if there != wanted:
        what = f"{new.name} takes over artifacts of {run.name}, so it must have the same store"
        raise InputError(what, got=wanted, allowed=there)
    return enter(new, config.get("store"))


def _write(new: RunFolder, taken: Sequence[Event], opening: Mapping[str, Any]) -> None:
    """Make the new run visible by one rename: with all of its ledger, or not at all."""
    draft = new.folder / DRAFT
    shutil.rmtree(draft, ignore_errors=True)  # of a fork that was cut short
    ledger = Ledger(draft)
    ledger.append("run", **opening)
    for event in taken:
        ledger.append(event["kind"], **_said(event))
    write_config(new, opening["config"])
    draft.rename(new.ledger.folder)


def _append_missing(new: RunFolder, taken: Sequence[Event], opening: Mapping[str, Any]) -> None:
    """The same, event by event, in a ledger that is kept in a bucket, where nothing is renamed; one that is whole stays as it is."""
    if not list(new.ledger):
        new.ledger.append("run", **opening)
    _make_sure(new, opening)
    present = list(new.ledger)[1:]
    if is_whole(new):
        return
    if [_said(event) for event in present] != [_said(event) for event in taken[: len(present)]]:
        what = f"the fork {new.name} was cut short, and {opening['forked']['run']} has changed since"
        raise InputError(what, next=f"`ratchet delete {new.name}`, then fork anew")
    for event in taken[len(present) :]:
        new.ledger.append(event["kind"], **_said(event))


def _said(event: Event) -> dict[str, Any]:
    """What an event says, wherever it stands; when it happened is part of it."""
    return {key: value for key, value in event.items() if key not in ("kind", "number")}


def _make_sure(new: RunFolder, wanted: Mapping[str, Any]) -> None:
    """The same command again goes on with the fork; any other is refused."""
    opening = new.opening()
    forked = opening.get("forked") or {}
    keys = [key for key, _, _ in differing(science(opening["config"]), science(wanted["config"]))]
    if not keys and all(forked.get(key) == wanted["forked"][key] for key in ("run", "round")):
        return
    is_what = f"forked from {forked['run']} after round {forked['round']}" if forked else "begun by itself"
    raise InputError(
        f"the run {new.name} exists and is another one",
        got=f"a run {is_what}" + (f", with other values for {', '.join(keys)}" if keys else ""),
        next="take another name: --as NEW",
    )


def _tell(run: RunFolder, new: RunFolder, store: Store, round: int, state: str) -> None:
    """Let the ledger of the run that was forked say so too, if nobody has it in hand."""
    said: dict[str, Any] = {"name": new.name, "round": round, "state": state}
    if not any(event["kind"] == "forked" and event["name"] == new.name for event in run.ledger):
        with held(run, store, watch=False):
            run.ledger.append("forked", **said)
