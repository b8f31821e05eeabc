"""Runs in a bucket: a ledger's events (`runs/<name>/ledger/000012.json`, each put only if there is none) and the lease beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ratchet.errors import CorruptArtifact
from ratchet.infra.bucket import Bucket
from ratchet.infra.bucket_lease import BucketLease, forget, holder

RUNS = "runs/"
FIRST = "/ledger/000001.json"


@dataclass(frozen=True)
class BucketLedger:
    """What a `Ledger` follows."""

    bucket: Bucket
    run: str

    @property
    def folder(self) -> str:
        return f"{RUNS}{self.run}/ledger/"

    def names(self, after: str = "") -> list[str]:
        entries = self.bucket.list(self.folder, after=f"{self.folder}{after}" if after else "")
        return [entry.key.removeprefix(self.folder) for entry in entries]

    def read(self, names: Iterable[str]) -> Mapping[str, bytes]:
        bodies = self.bucket.read_all([self.folder + name for name in names])
        for key, body in bodies.items():
            if body is None:
                raise CorruptArtifact(f"{self.bucket.address(key)}, an event of the run's ledger, is gone\n  next: `ratchet delete {self.run}`")
        return {key.removeprefix(self.folder): body.data for key, body in bodies.items() if body is not None}

    def place(self, name: str, event: bytes) -> bool:
        return self.bucket.write_new(self.folder + name, event) is not None


@dataclass(frozen=True)
class BucketRuns:
    """The runs whose store is a bucket."""

    bucket: Bucket

    def names(self) -> list[str]:
        found = [entry.key for entry in self.bucket.list(RUNS)]
        return [key.removeprefix(RUNS).removesuffix(FIRST) for key in found if key.endswith(FIRST)]

    def ledger(self, run: str) -> BucketLedger:
        return BucketLedger(self.bucket, run)

    def lease(self, run: str, *, watch: bool = True) -> BucketLease:
        return BucketLease.take(self.bucket, run, watch=watch)

    def holder(self, run: str) -> str | None:
        return holder(self.bucket, run)

    def delete(self, run: str) -> None:
        ledger = self.ledger(run)
        keys = [ledger.folder + name for name in ledger.names()]
        if keys:
            self.bucket.delete(keys[0])  # from here on there is no such run
            self.bucket.delete_all(keys[1:])
        forget(self.bucket, run)
