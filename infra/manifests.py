"""What is written into an artifact's folder beside its files, and how it is read back: the same in every store."""

import json
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Required, TypedDict

from ratchet.artifacts import MANIFEST, SCHEMA, Manifest
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, file_sha256

FLUSHED_AT_ONCE = 8

MADE = "made.json"
"""Host, time, attempt, seconds: beside the manifest, not in what is hashed."""


class Facts(TypedDict, total=False):
    """What is to be said of an artifact beyond its files: all of it in the manifest, but for `made`, which stands beside."""

    identity: Required[str]
    kind: Required[str]
    rows: int
    metrics: Mapping[str, float]
    parts: Sequence[Mapping[str, Any]]
    producer: Mapping[str, Any]
    inputs: Mapping[str, Any]
    groups: Sequence[tuple[str, int]]
    made: Mapping[str, Any]


def seal(draft: Path, facts: Facts) -> Manifest:
    """Write what a finished draft is into it (how it was made first, the manifest last), all flushed to disk."""
    files = {str(f.relative_to(draft)): {"sha256": file_sha256(f), "bytes": f.stat().st_size} for f in sorted(draft.rglob("*")) if f.is_file()}
    manifest = Manifest(
        identity=facts["identity"],
        kind=facts["kind"],
        rows=facts.get("rows", 0),
        metrics=dict(facts.get("metrics", {})),
        files=files,
        parts=tuple(facts.get("parts", ())),
        producer=facts.get("producer", {}),
        inputs=facts.get("inputs", {}),
        groups=tuple(facts.get("groups", ())),
    )
    (draft / MADE).write_bytes(canonical({"published": time.time(), **facts.get("made", {})}))
    (draft / MANIFEST).write_bytes(text_of(manifest))
    sync_all([draft, *draft.rglob("*")])
    return manifest


def text_of(manifest: Manifest) -> bytes:
    """A manifest as it is written."""
    return canonical({**asdict(manifest), "digest": manifest.digest})


def parse(where: str | Path, identity: str, text: str | bytes) -> Manifest:
    """A manifest as it was written for an identity, or CorruptArtifact."""
    try:
        raw = json.loads(text)
        stated = raw.pop("digest")
        manifest = Manifest(**{**raw, "parts": tuple(raw["parts"]), "groups": tuple((name, rows) for name, rows in raw.get("groups", ()))})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(where, f"{MANIFEST} cannot be read ({error})") from None
    if manifest.schema > SCHEMA:
        raise CorruptArtifact(f"{where} was written by a newer ratchet (schema {manifest.schema}, this one reads {SCHEMA})")
    if manifest.digest != stated:
        raise corrupt(where, f"{MANIFEST} states digest {stated}, its files give {manifest.digest}")
    if manifest.identity != identity:
        raise corrupt(where, f"{MANIFEST} is that of {manifest.identity}")
    return manifest


def corrupt(where: str | Path, what: str) -> CorruptArtifact:
    """The error that names a published artifact that is not what it should be, and what to do."""
    return CorruptArtifact(
        f"corrupted artifact {where}: {what}\n  next: `ratchet retry NAME --round K [--stage VERB]` sets it aside and makes it again"
    )


def note_difference(state: Path, loser: Manifest, winner: Manifest) -> None:
    """Keep beside the claim that two attempts at one stage came out differently, if they did."""
    if winner.digest != loser.digest:
        write_atomic(
            state / "claims" / loser.identity / f"nondeterministic.{time.time_ns()}.json",
            canonical({"published": winner.digest, "discarded": loser.digest, "files": loser.files}),
        )


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Iterable[Path]) -> None:
    """Flush files and folders to disk, several at a time: a filesystem's journal takes them together, at little more than the price of one."""
    left, failures = list(paths), list[OSError]()

    def work() -> None:
        while True:
            try:
                sync(left.pop())
            except IndexError:
                return
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, name="flush") for _ in range(min(FLUSHED_AT_ONCE, len(left)) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def write_atomic(path: Path, content: bytes, *, flush: bool = True) -> None:
    """Write a file that is either whole or not there; not flushed, only as long as the machine does not lose its power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        file.write(content)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)
    if flush:
        sync(path.parent)
