"""What `ratchet gc` deleted, and how a run goes on without it.

The ledger keeps of a deleted artifact what the loop asks of one (identity, digest, kind, rows, metrics), so that walking the recipe again
passes by it without making it again. Only when a stage is to be made that reads it is it made again, and first what it reads in turn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ratchet.artifacts import Artifact, Grid
from ratchet.errors import CorruptArtifact
from ratchet.infra.ledger import Event, Ledger
from ratchet.infra.store import Store
from ratchet.stages import Stage

Make = Callable[[Sequence[Stage]], Sequence[Artifact]]


def collected(ledger: Ledger) -> dict[str, Artifact]:
    """What was deleted and not set aside since, by identity; some of it may have been made again."""
    found: dict[str, Artifact] = {}
    for event in ledger:
        if event["kind"] == "collected":
            found |= {identity: Artifact(identity=identity, **kept) for identity, kept in event["artifacts"].items()}
        elif event["kind"] == "retried":
            found = {identity: artifact for identity, artifact in found.items() if identity not in event["identities"]}
    return found


def event_of(artifacts: Sequence[Artifact]) -> Event:
    """What the ledger keeps of artifacts that are to be deleted."""
    return {
        "artifacts": {
            artifact.identity: {"digest": artifact.digest, "kind": artifact.kind, "rows": artifact.rows, "metrics": dict(artifact.metrics)}
            for artifact in artifacts
        }
    }


@dataclass(frozen=True)
class Sparing:
    """Makes stages, but passes by those whose artifacts were deleted for as long as nothing needs them."""

    gone: Mapping[str, Artifact]
    store: Store
    make_all: Make
    _passed: dict[str, Stage] = field(default_factory=dict[str, Stage])

    def make(self, stages: Sequence[Stage]) -> list[Artifact]:
        """The stages' artifacts, in order."""
        passed = {stage.identity: stage for stage in stages if stage.identity in self.gone and not self.store.find(stage.identity)}
        self._passed.update(passed)
        asked = [stage for stage in stages if stage.identity not in passed]
        self._make_what_is_read([stage for stage in asked if self._passed and not self.store.find(stage.identity)])
        made = iter(self.make_all(asked) if asked else ())
        return [self.gone[stage.identity] if stage.identity in passed else next(made) for stage in stages]

    def _make_what_is_read(self, stages: Sequence[Stage]) -> None:
        """Make again what stages read of the artifacts that were passed by, and first what those read."""
        depths: dict[str, int] = {}
        read: dict[str, Stage] = {}

        def depth(stage: Stage) -> int:
            """How many batches come before a stage."""
            below = [artifact.identity for artifact in _inputs(stage)]
            for identity in below:
                if passed := self._passed.pop(identity, None):
                    read[identity], depths[identity] = passed, depth(passed)
            return 1 + max((depths[identity] for identity in below if identity in depths), default=-1)

        for stage in stages:
            depth(stage)
        for level in sorted(set(depths.values())):
            batch = [stage for identity, stage in read.items() if depths[identity] == level]
            for artifact in self.make_all(batch):
                self._compare(artifact, read[artifact.identity])

    def _compare(self, artifact: Artifact, stage: Stage) -> None:
        before = self.gone[artifact.identity]
        if artifact.digest != before.digest:
            what = f"{stage.title}, which `ratchet gc` had deleted, was needed again and came out otherwise"
            then = f"`ratchet retry NAME --round {stage.round}` makes anew what was made of it"
            raise CorruptArtifact(f"{what}\n  got:     digest {artifact.digest[:8]}, it was {before.digest[:8]}\n  next:    {then}")


def _inputs(stage: Stage) -> Iterator[Artifact]:
    for given in stage.inputs.values():
        yield from given.cells.values() if isinstance(given, Grid) else (given,)
