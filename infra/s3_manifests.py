"""The manifests of a bucket: what is published, asked for with as few requests as can be, and remembered on this machine.

A manifest says `made` too, so that one put makes both known and both are the winner's.
"""

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ratchet.artifacts import MANIFEST, Manifest
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical
from ratchet.infra.bucket import PAGE, Bucket
from ratchet.infra.manifests import MADE, corrupt, parse

FOLDER = "manifests/"
LISTED_S = 30.0
"""For how long a listing is believed about what it does not list."""
PAGES = 20
"""Of a listing: a bucket that holds more artifacts is asked for each."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A manifest that was read, and how its artifact was made."""

    manifest: Manifest
    made: Mapping[str, Any]


@dataclass(kw_only=True)
class Listing:
    """What was published when the bucket was last listed: identity → ETag of its manifest."""

    etags: dict[str, str] = field(default_factory=dict[str, str])
    at: float = float("-inf")
    complete: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """What is published in a bucket."""

    bucket: Bucket
    memory: Path
    """The folder where manifests are remembered, each with its ETag: one that did not change is not fetched again."""
    _found: dict[str, Found] = field(default_factory=dict[str, Found])
    _listing: Listing = field(default_factory=Listing)

    def survey(self, identities: Iterable[str]) -> None:
        """List what is published, and read the manifests of `identities`, side by side."""
        entries = list(self.bucket.list(FOLDER, pages=PAGES))
        listing = self._listing
        listing.etags = {identity_in(entry.key): entry.etag for entry in entries}
        listing.at, listing.complete = time.monotonic(), len(entries) < PAGES * PAGE
        wanted = [identity for identity in dict.fromkeys(identities) if identity in listing.etags and identity not in self._found]
        missing = [key_of(identity) for identity in wanted if not self._remembered(identity, listing.etags[identity])]
        for key, body in self.bucket.read_all(missing).items():
            if body is not None:
                with suppress(CorruptArtifact):  # whoever asks for it will be told
                    self.learn(identity_in(key), body.data, body.etag)

    def find(self, identity: str) -> Found | None:
        """A manifest that was read before, or is there now."""
        if identity in self._found:
            return self._found[identity]
        if self._listed_absent(identity):
            return None
        return self.look(identity)

    def look(self, identity: str) -> Found | None:
        """A manifest as it is in the bucket now."""
        self.forget(identity)
        body = self.bucket.read(key_of(identity))
        return self.learn(identity, body.data, body.etag) if body else None

    def put(self, manifest: Manifest, made: Mapping[str, Any]) -> Found | None:
        """Put a manifest unless there is one; None if there is."""
        text = canonical({**asdict(manifest), "digest": manifest.digest, "made": made})
        etag = self.bucket.write_new(key_of(manifest.identity), text)
        return self.learn(manifest.identity, text, etag) if etag else None

    def forget(self, identity: str) -> None:
        """What was known of an artifact is not so any more."""
        self._found.pop(identity, None)
        self._listing.etags[identity] = ""

    def learn(self, identity: str, text: bytes, etag: str) -> Found:
        """Read a manifest, and remember it."""
        found = self._read(identity, text)
        self.memory.mkdir(parents=True, exist_ok=True)
        temporary = self.memory / f".{uuid.uuid4().hex}"
        temporary.write_bytes(canonical({"etag": etag, "text": text.decode()}))
        temporary.replace(self.memory / f"{identity}.json")
        return found

    def _listed_absent(self, identity: str) -> bool:
        """Whether a listing just made says that it is not published. It says so once: who asks again wants to know it of now."""
        listing = self._listing
        absent = listing.complete and time.monotonic() - listing.at < LISTED_S and identity not in listing.etags
        listing.etags.setdefault(identity, "")
        return absent

    def _remembered(self, identity: str, etag: str) -> Found | None:
        """A manifest as this machine read it before, if it is still the one in the bucket."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            memory = json.loads((self.memory / f"{identity}.json").read_bytes())
            return self._read(identity, memory["text"].encode()) if memory["etag"] == etag else None
        return None

    def _read(self, identity: str, text: bytes) -> Found:
        where = address(self.bucket, identity)
        try:
            raw = json.loads(text)
            made = raw.pop("made", {})
        except (ValueError, AttributeError) as error:
            raise corrupt(where, f"{MANIFEST} cannot be read ({error})") from None
        manifest = parse(where, identity, canonical(raw))
        for name in manifest.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name in ("", MANIFEST, MADE):
                raise corrupt(where, f"{MANIFEST} names a file {name!r}")
        found = Found(manifest=manifest, made=made)
        self._found[identity] = found
        return found


def address(bucket: Bucket, identity: str) -> str:
    """Where an artifact lies, as messages name it."""
    return bucket.address(f"objects/{identity}")


def key_of(identity: str) -> str:
    return f"{FOLDER}{identity}.json"


def identity_in(key: str) -> str:
    """The identity in a key: `manifests/<identity>.json`, `objects/<identity>/…`, `quarantine/<identity>.…`."""
    return key.split("/")[1].partition(".")[0]
