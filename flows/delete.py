"""`ratchet delete`: remove a run, and of the store what no other run's ledger refers to.

Everything is first renamed into `.ratchet/trash/`, the run's own folder (and with it the ledger) before all else, and then removed: a
deletion that is cut short has deleted the run, and the next one clears up what it left. What MLflow and Prefect show of the run stays.
"""

import shutil
import sys
import time
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from ratchet.errors import InputError, RunHeld
from ratchet.flows.units import asked, claim_of, shards_of
from ratchet.infra.claims import Lock, is_locked
from ratchet.infra.crew import Crew
from ratchet.infra.executors import Inline
from ratchet.infra.ledger import Ledger
from ratchet.infra.runs import RunFolder, runs_under
from ratchet.infra.store import Store, bytes_in
from ratchet.infra.stores import held, known_runs, store_of

RUN = "run"


def delete(run: RunFolder, *, really: bool) -> int:
    """Delete a run, or say what would go; returns the exit code."""
    run.opening()
    store = store_of(run)
    if nested := [other.name for other in runs_under(run.root) if other.name.startswith(f"{run.name}/")]:
        raise InputError(f"{run.name} holds other runs", got=", ".join(nested[:5]), next="delete those first")
    with held(run, store):
        mine = referenced(run.ledger, store)
        refuse_while_jobs_work(store, run)
        going = mine - _referenced_by(store, known_runs(run.root, store), but=run)
        size = sum(map(bytes_in, [run.folder, *_folders(store, going)])) + (sum(map(store.size, going)) if store.runs else 0)
        said = f"the run {run.name}, {_count(store, going)} of its {_count(store, mine)} artifacts (other runs use the rest), {in_words(size)}"
        if not really:
            sys.stdout.write(f"would delete {said}\n  next: add --yes\n")
            return 0
        trash = store.state / "trash" / uuid.uuid4().hex
        trash.mkdir(parents=True)
        run.folder.rename(trash / RUN)
        if store.runs is not None:
            store.runs.delete(run.name)
            for identity in sorted(going, key=lambda identity: bool(shards_of(store, identity))):
                store.remove(identity)  # cut short, what is left is nobody's: `ratchet gc` finds it
    _remove_empty_parents(run)
    _empty_trash(store)
    sys.stdout.write(f"deleted {said}\n")
    return 0


def referenced(ledger: Ledger, store: Store) -> set[str]:
    """Every artifact that a run's ledger ever named: stages, their shards, states and what those point to."""
    found = set()
    for event in ledger:
        if "identity" in event:
            found.add(event["identity"])
        if event["kind"] == "advanced":
            pointed = [*event["roles"].values(), *event["stores"].values()]
            found |= {event["state"], event["report"], *(pointer["identity"] for pointer in pointed)}
    store.survey(found)
    return found.union(*(shards_of(store, identity) for identity in found))


def _referenced_by(store: Store, runs: Iterable[RunFolder], *, but: RunFolder | None = None) -> set[str]:
    return {identity for run in runs if run != but for identity in referenced(run.ledger, store)}


def refuse_while_jobs_work(store: Store, run: RunFolder) -> None:
    """A job may outlive its driver: what is deleted under it would come back."""
    titles = {identity: title for stage in asked(run.ledger, store) for identity, title in stage.units.items()}
    claims = {identity: claim_of(store, identity) for identity in titles}
    crew = Crew(Inline())
    records = {identity: record for identity, claim in claims.items() if (record := crew.left_by(claim))}
    alive = {identity for identity, look in zip(records, crew.probe(list(records.values())), strict=True) if look.state != "over"}
    alive |= {identity for identity, claim in claims.items() if is_locked(claim.folder / "run.lock")}
    if alive:
        what = f"a job of the run {run.name} is still at work ({titles[min(alive)]})"
        raise RunHeld(f"{what}\n  next: wait for it, or end it, then delete")


def _folders(store: Store, identities: Collection[str]) -> list[Path]:
    """All that the store holds of identities: drafts, what was set aside, claims and artifacts."""
    leftovers = [folder for name in ("drafts", "quarantine") if (store.state / name).is_dir() for folder in (store.state / name).iterdir()]
    found = [folder for folder in leftovers if folder.name.partition(".")[0] in identities]
    for identity in identities:
        found += [folder for folder in (claim_of(store, identity).folder, store.object(identity)) if folder.exists()]
    return found


def _empty_trash(store: Store) -> None:
    """Finish this deletion and any that was cut short."""
    with Lock(store.state / "trash.lock") as lock:
        while not lock.try_acquire():
            time.sleep(0.1)
        for trash in sorted((store.state / "trash").iterdir()):
            _empty(store, trash)


def _empty(store: Store, trash: Path) -> None:
    """What a deleted run alone referred to follows it into the trash; its ledger, which says what that is, goes last."""
    going = referenced(Ledger(trash / RUN / "ledger"), store) - _referenced_by(store, runs_under(store.state.parent))
    # A sharded stage after its shards: its manifest is what names them.
    for folder in _folders(store, sorted(going, key=lambda identity: bool(shards_of(store, identity)))):
        folder.rename(trash / f"{folder.parent.name}.{folder.name}")
    for folder in sorted(trash.iterdir(), key=lambda folder: folder.name == RUN):
        shutil.rmtree(folder)
    trash.rmdir()


def _remove_empty_parents(run: RunFolder) -> None:
    for folder in run.folder.parents:
        if folder == run.root or any(folder.iterdir()):
            return
        folder.rmdir()


def _count(store: Store, identities: Iterable[str]) -> int:
    return sum(store.has(identity) for identity in identities)


def in_words(count: int) -> str:
    """So many bytes, as people say it."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
