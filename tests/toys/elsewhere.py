"""`ratchet` as on another machine that shares the folder and no lock: the host's name is in `RATCHET_TEST_HOST`, beats are quick."""

import os
from collections.abc import Sequence

from ratchet.flows import cli
from ratchet.infra import lease


def main(words: Sequence[str]) -> int:
    """The command line, after a move to the other machine."""
    host = os.environ["RATCHET_TEST_HOST"]
    lease.BEAT_S, lease.TTL_S, lease.POLL_S = 0.2, 1.5, 0.05
    lease.OWN_DISK = set()
    lease.boot = lambda: f"boot of {host}"
    lease.socket.gethostname = lambda: host  # type: ignore[assignment]
    lease.is_locked = lambda path: False
    lease.Lock.try_acquire = lambda self: True  # type: ignore[method-assign]
    return cli.main(words)
