"""Requests to S3 until they are answered: who is asked, how long, and how often.

Retries are made here and botocore's own are off, for they would draw from the global random generator, which a stage in the same
process may be using. What S3 throttles, what fails on the server or in transit, and what is answered torn is asked again with growing,
jittered pauses, until `patience_s` is over. Credentials are found by boto3's own chain and never appear here.
"""

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ratchet.infra.bucket_errors import StoreAway, WrongSize, verdict_on

CONNECT_S = 5.0
SAY_AFTER_S = 2.0
"""A store that answers within this is not worth a word."""
LONGEST_PAUSE_S = 15.0

Answer = TypeVar("Answer")

_sessions: dict[int, Any] = {}
_making = threading.Lock()

_failed = threading.local()
"""`.event` is set once what this thread works for is lost anyway."""


def to_stderr(text: str) -> None:
    """Tell the user of a command, or a job's log."""
    sys.stderr.write(f"ratchet: {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A server, with how long it is waited for and how many requests it gets at a time."""

    uri: str
    endpoint_url: str | None = None
    region: str | None = None
    patience_s: float = 600.0
    timeout_s: float = 60.0
    concurrency: int = 8
    warn: Callable[[str], None] = to_stderr
    _clients: dict[int, Any] = field(default_factory=dict[int, Any], compare=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, compare=False, repr=False)
    _away_since: list[float] = field(default_factory=list[float], compare=False, repr=False)
    """Filled once the user was told."""

    def __str__(self) -> str:
        return f"{self.uri} at {self.endpoint_url}" if self.endpoint_url else self.uri

    def call(self, request: Callable[[Any], Answer]) -> Answer:
        """Make a request until it is answered: Missing or Changed, or an InputError if refused, or StoreAway when patience is over."""
        began, pauses, lost = time.monotonic(), _pauses(), getattr(_failed, "event", threading.Event())
        while True:
            try:
                answer = request(self._client())
            except WrongSize:
                raise
            except Exception as error:  # noqa: BLE001 - the boundary to boto3, whose errors have no common root
                trouble = verdict_on(error, self.uri, self.endpoint_url)
                if not isinstance(trouble, str):
                    raise trouble from None
                waited = time.monotonic() - began
                if waited >= self.patience_s or lost.is_set():
                    raise self._away(trouble, waited) from None
                self._say_away(trouble, waited)
                lost.wait(min(next(pauses), self.patience_s - waited))
            else:
                self._say_back()
                return answer

    def side_by_side(self, tasks: Sequence[Callable[[], object]]) -> None:
        """Do all, `concurrency` at a time; the first that fails ends the others."""
        if len(tasks) <= 1:
            for task in tasks:
                task()
            return
        lost = threading.Event()
        pool = ThreadPoolExecutor(min(self.concurrency, len(tasks)), "s3", initializer=lambda: setattr(_failed, "event", lost))
        try:
            done, _ = wait([pool.submit(task) for task in tasks], return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
        finally:
            lost.set()
            pool.shutdown(cancel_futures=True)

    def _client(self) -> Any:
        """This process's client: connections do not survive a fork."""
        with self._lock:
            if os.getpid() not in self._clients:
                self._clients[os.getpid()] = self._connect()
            return self._clients[os.getpid()]

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        elsewhere = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config = Config(
            connect_timeout=min(CONNECT_S, self.timeout_s),
            read_timeout=self.timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},
            max_pool_connections=2 * self.concurrency,
            tcp_keepalive=True,
            s3={"addressing_style": "path" if elsewhere else "auto"},
            # Our own SHA-256 goes with every write; further checksums, which not every server understands, are left away.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with _making:
            session = _sessions.setdefault(os.getpid(), boto3.session.Session())  # a second client of one session costs a tenth of the first
            return session.client("s3", endpoint_url=self.endpoint_url, region_name=self.region, config=config)

    def _away(self, trouble: str, waited: float) -> StoreAway:
        return StoreAway(
            f"{self} does not answer: {trouble}\n  waited:  {waited:.0f} s (store.patience_s={self.patience_s:g})\n"
            "  next:    give the same command again once it does: what is published stays"
        )

    def _say_away(self, trouble: str, waited: float) -> None:
        if waited < SAY_AFTER_S or self._away_since:
            return
        with self._lock:
            if not self._away_since:
                self._away_since.append(time.monotonic() - waited)
                self.warn(f"{self} does not answer ({trouble}); waiting for it, up to {self.patience_s:g} s")

    def _say_back(self) -> None:
        if not self._away_since:
            return
        with self._lock:
            if self._away_since:
                self.warn(f"{self} answers again, after {time.monotonic() - self._away_since.pop():.0f} s")


def _pauses() -> Iterator[float]:
    """Growing, jittered pauses, from a generator of their own."""
    chance, pause = random.SystemRandom(), 0.1
    while True:
        yield pause * chance.uniform(0.5, 1.0)
        pause = min(pause * 2, LONGEST_PAUSE_S)
