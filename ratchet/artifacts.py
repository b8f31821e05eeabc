"""Artifacts: immutable folders, named by what made them, digested by what they hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptArtifact
from ratchet.identity import digest
from ratchet.records import KINDS, Record, read

SCHEMA = 1
MANIFEST = "manifest.json"
RECORDS = "records.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """An immutable folder in the store."""

    identity: str
    """Hash of what made it: verb, component, fields, inputs' digests, seed."""
    digest: str
    """Hash of what it holds."""
    kind: str
    """`problems`, `rollouts`, `demonstrations`, `pairs`, `policy`, `knobs`, `report` or `state`."""
    rows: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float], compare=False)
    groups: tuple[tuple[str, int], ...] = field(default=(), compare=False)
    """(name, rows) of each, in the order they stand, where the rows belong to groups."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.identity[:8]}"


@dataclass(frozen=True, slots=True)
class Grid:
    """One artifact per value of a field, keyed by the value's canonical decimal."""

    field: str
    cells: Mapping[str, Artifact]

    def items(self) -> Iterator[tuple[str, Artifact]]:
        return iter(self.cells.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an artifact's folder holds; written last, so that its existence means completeness."""

    identity: str
    kind: str
    rows: int
    metrics: Mapping[str, float]
    files: Mapping[str, Mapping[str, Any]]
    """name → `sha256`, `bytes`."""
    parts: tuple[Mapping[str, Any], ...] = ()
    """The shards a sharded stage is made of, in order: `identity`, `digest`, `rows`."""
    producer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    groups: tuple[tuple[str, int], ...] = ()
    """(name, rows) of each, in the order they stand, where the rows belong to groups."""
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """Digest of the content alone: no time, host, path or attempt."""
        return digest({"kind": self.kind, "files": {name: f["sha256"] for name, f in self.files.items()}, "parts": [p["digest"] for p in self.parts]})

    @property
    def artifact(self) -> Artifact:
        return Artifact(identity=self.identity, digest=self.digest, kind=self.kind, rows=self.rows, metrics=self.metrics, groups=self.groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """An artifact whose files lie, verified, in a local folder."""

    manifest: Manifest
    folder: Path
    parts: tuple["Opened", ...] = ()

    def records(self) -> Iterator[Record]:
        """Its rows, shard after shard."""
        if self.manifest.kind not in KINDS:
            raise CorruptArtifact(f"{self.folder} holds a {self.manifest.kind}, not records")
        if self.parts:
            for part in self.parts:
                yield from part.records()
        else:
            yield from read(self.folder / RECORDS, KINDS[self.manifest.kind])
