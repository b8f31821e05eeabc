"""The lease of a run whose store is a bucket: which driver has it in hand, among all machines, whatever folders they share.

`runs/<name>/lease.json` says who holds the run, and is written anew every few seconds for as long as he lives, each time on the
condition (`If-Match`) that it is still as he wrote it last. So a driver that stood still, was taken over and wakes up finds out by its
next beat. Whether a holder lives is told by his beat moving while it is watched; at once where he let go, where his process is known to
be gone, or where the server, by its own clock alone, has not seen him for much longer. No two machines' clocks are ever compared.
"""

import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, Self

from ratchet.errors import RatchetError, RunHeld
from ratchet.identity import canonical
from ratchet.infra.bucket import Body, Bucket
from ratchet.infra.bucket_connection import Connection
from ratchet.infra.executors import start_time

BEAT_S = 5.0
"""How often a holder writes his lease anew."""
TTL_S = 45.0
"""For how long a beat must stand still, while it is watched, before its holder counts as dead."""
LONG_S = 2 * TTL_S
"""Not seen by the server for this long: dead, without watching."""
POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One driver's time with a run."""

    token: str
    host: str
    pid: int
    start: str | None
    """When its process started; with `space` this tells it from any other."""
    space: str
    """The kernel and the process namespace that its pid belongs to."""
    since: float
    command: str
    beat: int = 0
    over: bool = False
    """Its holder let go of the run."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"

    @property
    def gone(self) -> bool:
        """Whether its holder is known to be gone: it let go, or its process lived here and does not any more."""
        return self.over or (self.space == space() and start_time(self.pid) != self.start)


class BucketLease:
    """A run in hand: `take` it, `check` before every word in its ledger that it is still in hand, `release` it."""

    def __init__(self, bucket: Bucket, run: str, turn: Turn, etag: str) -> None:
        self.bucket, self.run, self.turn, self.lost = _hasty(bucket), run, turn, False
        self._etag, self._beaten = etag, _now()
        self._ended, self._writing = threading.Event(), threading.Lock()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="bucket lease")
        self._beating.start()

    @classmethod
    def take(cls, bucket: Bucket, run: str, *, watch: bool = True) -> "BucketLease":
        """Hold the run, or say who does. Where only its beat tells whether a holder lives, it is watched, unless `watch` is False."""
        turn, key, body = _turn(), _key(run), bucket.read(_key(run))
        if body is None:
            etag = bucket.write_new(key, canonical(asdict(turn)))
        else:
            if not _is_over(body):
                body = _watch(bucket, run, body) if watch else _refuse(run, _read(body))
            etag = bucket.replace(key, canonical(asdict(turn)), body.etag)
        if etag is None:
            now = bucket.read(key)
            _refuse(run, _read(now) if now else None)
        return cls(bucket, run, turn, str(etag))

    def check(self) -> None:
        """Raise `RunHeld` if the run is not in hand any more; asks the bucket only if this process stood still."""
        if not self.lost and _now() - self._beaten > TTL_S:
            with suppress(RatchetError):  # while the bucket is away nobody else can have taken the run
                self._write(replace(self.turn, beat=self.turn.beat + 1))
        if self.lost:
            what = f"the run {self.run} was taken over: of this driver nothing had been heard for {TTL_S:.0f} s"
            raise RunHeld(f"{what}\n  next: nothing that is published is lost; `ratchet show {self.run}` follows it")

    def release(self) -> None:
        self._ended.set()
        with suppress(RatchetError):  # a bucket that is away: who comes next watches
            self._write(replace(self.turn, over=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S) and not self.lost:
            with suppress(RatchetError):
                self._write(replace(self.turn, beat=self.turn.beat + 1))

    def _write(self, turn: Turn) -> None:
        """Write the lease anew, or learn that it is another's."""
        with self._writing:
            if self.lost or self.turn.over:
                return
            etag = self.bucket.replace(_key(self.run), canonical(asdict(turn)), self._etag)
            if etag is None:
                self.lost = True
            else:
                self.turn, self._etag, self._beaten = turn, etag, _now()


def holder(bucket: Bucket, run: str) -> str | None:
    """Who holds a run, in words; None if no living driver does, as far as can be told without watching."""
    body = bucket.read(_key(run))
    if body is None or _is_over(body) or body.age_s >= TTL_S:
        return None
    return str(_read(body) or "another driver")


def forget(bucket: Bucket, run: str) -> None:
    """Delete a run's lease, with the run."""
    bucket.delete(_key(run))


def _is_over(body: Body) -> bool:
    turn = _read(body)
    return (turn is not None and turn.gone) or body.age_s >= LONG_S


def _watch(bucket: Bucket, run: str, body: Body) -> Body:
    """Wait until the beat moves (then the holder lives: `RunHeld`), he lets go, or it stood still for long enough; the lease as it is then."""
    sys.stderr.write(f"ratchet: the run {run} was last in the hands of {_read(body)}; watching whether it is alive, for {TTL_S:.0f} s at most …\n")
    sys.stderr.flush()
    began = time.monotonic()
    while True:
        now = time.monotonic()  # before looking: if this process is frozen in between, it has looked late, not waited long
        seen = bucket.read(_key(run))
        if seen is None or seen.etag != body.etag:
            return seen if seen and _is_over(seen) else _refuse(run, _read(seen) if seen else None)
        if now - began >= TTL_S:
            return seen
        time.sleep(min(POLL_S, TTL_S))


def _refuse(run: str, turn: Turn | None) -> NoReturn:
    by = f"{turn}\n  command: {turn.command}" if turn else "another driver"
    raise RunHeld(f"the run {run} is held by {by}\n  next: wait for it, or end that process and give the same command again")


def _read(body: Body) -> Turn | None:
    """The turn that a lease tells of; None if it is of a newer ratchet: nobody's, and watched like anybody's."""
    with suppress(ValueError, TypeError):
        return Turn(**json.loads(body.data))
    return None


def _turn() -> Turn:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return Turn(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        start=start_time(os.getpid()),
        space=space(),
        since=time.time(),
        command=command,
    )


def space() -> str:
    """What tells the pids of this machine (or container), since it was booted, from any other's."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return uuid.uuid4().hex  # nothing tells: nobody is taken for dead


def _key(run: str) -> str:
    return f"runs/{run}/lease.json"


def _hasty(bucket: Bucket) -> Bucket:
    """The same bucket for one who would rather come back in a moment than wait."""
    of = bucket.connection
    hasty = Connection(
        uri=of.uri, endpoint_url=of.endpoint_url, region=of.region, patience_s=BEAT_S / 2, timeout_s=min(of.timeout_s, BEAT_S), concurrency=1
    )
    return Bucket(connection=replace(hasty, warn=lambda text: None))


def _now() -> float:
    """A clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
