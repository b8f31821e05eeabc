"""What a bucket and its copies hold that is no artifact: of attempts that died, of losers, and of what was set aside."""

from collections.abc import Iterator
from pathlib import Path

from ratchet.errors import CorruptArtifact
from ratchet.infra.bucket import Bucket
from ratchet.infra.s3_manifests import FOLDER, Manifests, identity_in
from ratchet.infra.store import Leftover, LocalStore

ABANDONED_S = 24 * 3600.0
"""What no manifest names after this long belongs to nobody; younger, an attempt somewhere may be at work on it."""

UPLOAD = "an upload that was never completed"


def leftovers(manifests: Manifests, local: LocalStore) -> list[Leftover]:
    """All of it, on this machine and in the bucket."""
    bucket = manifests.bucket
    return [*local.leftovers(), *_downloads(local.state / "downloads"), *_set_aside(bucket), *_unnamed(manifests), *_uploads(bucket)]


def discard(bucket: Bucket, local: LocalStore, leftover: Leftover) -> None:
    """Delete a leftover for good."""
    key = leftover.where.removeprefix(f"{bucket.uri}/")
    if key == leftover.where:
        local.discard(leftover)
    elif leftover.why.startswith(UPLOAD):
        for upload in [entry for entry in bucket.uploads() if entry.key == key and entry.upload in leftover.why]:
            bucket.abort(upload)
    else:
        bucket.delete(key)


def _downloads(folder: Path) -> Iterator[Leftover]:
    for parts in sorted(folder.iterdir()) if folder.is_dir() else ():
        if parts.is_dir():
            size = sum(file.stat().st_blocks * 512 for file in parts.iterdir())  # files that are not whole yet have holes
            yield Leftover(identity=parts.name, where=str(parts), why="a download that was not finished", bytes=size)


def _set_aside(bucket: Bucket) -> Iterator[Leftover]:
    for entry in bucket.list("quarantine/"):
        yield Leftover(identity=identity_in(entry.key), where=bucket.address(entry.key), why="set aside by `retry`", bytes=entry.bytes)


def _unnamed(manifests: Manifests) -> Iterator[Leftover]:
    bucket = manifests.bucket
    old = [entry for entry in bucket.list("objects/") if entry.age_s > ABANDONED_S]
    published = {identity_in(entry.key) for entry in bucket.list(FOLDER)}
    manifests.survey(published & {identity_in(entry.key) for entry in old})
    for entry in old:
        identity, sha = identity_in(entry.key), entry.key.rpartition("/")[2]
        if identity not in published:
            yield Leftover(identity=identity, where=bucket.address(entry.key), why="a file of an attempt that never published", bytes=entry.bytes)
        elif sha not in _named(manifests, identity, otherwise=sha):
            why = "a file that its artifact's manifest does not name"
            yield Leftover(identity=identity, where=bucket.address(entry.key), why=why, bytes=entry.bytes)


def _named(manifests: Manifests, identity: str, *, otherwise: str) -> set[str]:
    """The digests of the files that an artifact's manifest names; one that cannot be read may name any."""
    try:
        found = manifests.find(identity)
    except CorruptArtifact:
        return {otherwise}
    return {entry["sha256"] for entry in found.manifest.files.values()} if found else set()


def _uploads(bucket: Bucket) -> Iterator[Leftover]:
    for entry in bucket.uploads():
        if entry.age_s > ABANDONED_S:
            yield Leftover(identity=identity_in(entry.key), where=bucket.address(entry.key), why=f"{UPLOAD} ({entry.upload})", bytes=0)
