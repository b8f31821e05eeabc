"""The executor of today beside those of yesterday: a run may change its executor while jobs of the former one are still at work.

Every job's record says what kind of executor started it. New jobs go to the one that the config names; what becomes of an older job is
asked of its own kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ratchet.infra.claims import Claim
from ratchet.infra.executors import Ending, Executor, Inline, Job, JobRecord, Local, Look


@dataclass(frozen=True)
class Crew:
    """An executor that knows the jobs of every kind."""

    configured: Executor
    owner: str = ""
    """The run that the jobs are for."""
    _others: dict[str, Executor] = field(default_factory=dict[str, Executor], compare=False, repr=False)

    @cached_property
    def today(self) -> Executor:
        """Who gets new jobs."""
        if getattr(self.configured, "hold", False):
            from ratchet.infra.allocation import Allocation

            return Allocation(slurm=self.configured, owner=self.owner)  # type: ignore[arg-type]  # only SLURM's has the field
        return self.configured

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The driver is done, or failed; one that detaches leaves its allocation to the driver that comes back."""
        if kind is None or issubclass(kind, Exception):
            getattr(self.today, "close", lambda: None)()

    @property
    def kind(self) -> str:
        return self.today.kind

    @property
    def outlives_machine(self) -> bool:
        return self.today.outlives_machine

    @property
    def slots(self) -> int:
        return self.today.slots

    @property
    def attempts(self) -> int:
        return self.today.attempts

    @property
    def grace_s(self) -> float:
        return self.today.grace_s

    def of(self, kind: str) -> Executor:
        """The executor of a kind; one of yesterday's with its defaults, which is enough to follow its jobs."""
        if kind == self.today.kind:
            return self.today
        if kind not in self._others:
            self._others[kind] = _default(kind)
        return self._others[kind]

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        return [{**record, "kind": self.kind} for record in self.today.submit(jobs, name)]

    def find(self, name: str, index: int, kind: str) -> JobRecord | None:
        record = self.of(kind).find(name, index)
        return None if record is None else {**record, "kind": kind}

    def left_by(self, claim: Claim) -> JobRecord | None:
        """The job that a claim's last driver recorded, or was about to; None if there is none."""
        if job := claim.job():
            record: JobRecord = job["job"]
            return record
        intent = claim.intent()
        return self.find(intent["name"], intent["index"], intent["kind"]) if intent else None

    def release(self, records: Sequence[JobRecord]) -> None:
        for kind, mine in _by_kind(records).items():
            self.of(kind).release(mine)

    def cancel(self, records: Sequence[JobRecord]) -> None:
        for kind, mine in _by_kind(records).items():
            self.of(kind).cancel(mine)

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        looks = {}
        for kind, mine in _by_kind(records).items():
            looks.update({id(record): look for record, look in zip(mine, self.of(kind).probe(mine), strict=True)})
        return [looks[id(record)] for record in records]

    def verdict(self, record: JobRecord) -> Ending:
        return self.of(record["kind"]).verdict(record)


def _by_kind(records: Sequence[JobRecord]) -> dict[str, list[JobRecord]]:
    found: dict[str, list[JobRecord]] = {}
    for record in records:
        found.setdefault(record["kind"], []).append(record)
    return found


def _default(kind: str) -> Executor:
    if kind in ("slurm", "allocation"):
        from ratchet.infra.allocation import Allocation
        from ratchet.infra.slurm_executor import Slurm

        return Slurm() if kind == "slurm" else Allocation(slurm=Slurm())
    return Inline() if kind == "inline" else Local()
