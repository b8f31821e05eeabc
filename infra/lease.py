"""The lease: which driver has a run in hand, among all the machines that share its folder.

<run>/lease/
├── lock            flock: between drivers on one machine it decides at once, and the kernel frees it however its holder ends
└── 000007.json     the last turn: who took it, and a count that he raises every few seconds for as long as he lives

A turn begins by `link`, which lets one of several takers through on every filesystem, and its number is higher than any before: so a
later turn ends an earlier one, and a driver that was only frozen finds out by listing the folder. Whether a holder on another machine
lives is told by his count moving, on the clock of whoever watches; no two machines' clocks are ever compared.
"""

import errno
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

from ratchet.errors import RunHeld
from ratchet.identity import canonical
from ratchet.infra.claims import Lock, is_locked
from ratchet.infra.runs import RunFolder
from ratchet.infra.views import filesystem_of

BEAT_S = 5.0
"""How often a holder raises his count."""
TTL_S = 30.0
"""For how long a count must stand still before its holder counts as dead."""
POLL_S = 0.5

OWN_DISK = {"apfs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
"""Filesystems, as the kernel names them, that one machine alone has mounted: there flock tells of every driver there can be."""

NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What filesystems answer that have no flock."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One driver's time with a run."""

    number: int
    token: str
    host: str
    boot: str
    """The running kernel: drivers under one kernel have one flock between them, whatever their hosts are called."""
    pid: int
    since: float
    command: str
    locked: bool
    """Whether its holder has the lock too."""
    beat: int = 0
    over: bool = False
    """Its holder let go of the run."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"


class Lease:
    """A run in hand: `take` it, `check` before every word in its ledger that it is still in hand, `release` it."""

    def __init__(self, run: RunFolder, turn: Turn, lock: Lock) -> None:
        self.run, self.turn, self._lock = run, turn, lock
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._beating.start()

    @classmethod
    def take(cls, run: RunFolder, *, watch: bool = True) -> "Lease":
        """Hold the run, or say who does. Where only its heartbeat tells whether a holder lives, it is watched, unless `watch` is False."""
        folder = _folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(folder / "lock")
        try:
            last = _let_go(run, _acquire(lock), watch=watch)
            turn = _turn(last.number + 1 if last else 1, locked=_acquire(lock, patient=False) is True)
            if not _begin(folder, turn):
                raise _held(run, latest(folder))
            for earlier in _names(folder)[:-1]:
                (folder / earlier).unlink(missing_ok=True)
        except BaseException:
            lock.release()
            raise
        return cls(run, turn, lock)

    @staticmethod
    def holder(run: RunFolder) -> str:
        """Who holds a run, in words."""
        turn = latest(_folder(run))
        return "another driver" if turn is None or turn.over else str(turn)

    @staticmethod
    def is_held(run: RunFolder) -> bool:
        """Whether a living driver has the run: answered at once, and without disturbing it."""
        folder = _folder(run)
        turn = latest(folder)
        held = _is_held(folder, turn, _is_free(folder / "lock"))
        return _age(folder, turn) < TTL_S if held is None and turn is not None else bool(held)

    def check(self) -> None:
        """Raise `RunHeld` if the run is not in hand any more; cheap enough to be asked before every word in the ledger."""
        now = latest(_folder(self.run))
        if now is None:
            raise RunHeld(f"the run {self.run.name} was deleted while this driver stood still")
        if now.token != self.turn.token:
            what = f"the run {self.run.name} was taken over by {now}: of this driver nothing had been heard for {TTL_S:.0f} s"
            raise RunHeld(f"{what}\n  command: {now.command}\n  next: nothing that is published is lost; `ratchet show {self.run.name}` follows it")

    def release(self) -> None:
        self._ended.set()
        self._beating.join(BEAT_S)
        with suppress(OSError):  # a folder that is gone has nobody waiting
            self._write(replace(self.turn, over=True))
        self._lock.release()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):  # a server that is away for a moment; the next beat comes
                if not self._write(replace(self.turn, beat=self.turn.beat + 1)):
                    return

    def _write(self, turn: Turn) -> bool:
        """Put this driver's turn anew, unless another one has begun."""
        folder = _folder(self.run)
        with self._writing:
            now = latest(folder)
            if now is None or now.token != turn.token:
                return False
            _put(folder / f".{turn.token}", turn).replace(folder / _name(turn.number))
            self.turn = turn
        return True


def latest(folder: Path) -> Turn | None:
    """The last turn that was begun, over or not; None if there is none."""
    while names := _names(folder):
        try:
            return Turn(**json.loads((folder / names[-1]).read_text()))
        except (ValueError, TypeError):  # torn by a power failure: nobody's, and watched like anybody's
            return replace(_turn(int(Path(names[-1]).stem), locked=False), token="", host="an unknown host", boot="", pid=0)
        except FileNotFoundError:  # cleared away by a later turn, this very moment
            continue
        except OSError as error:  # a network filesystem's word for a file that was replaced while it was opened
            if error.errno != errno.ESTALE:
                raise
    return None


def _let_go(run: RunFolder, flock: bool | None, *, watch: bool) -> Turn | None:
    """The last turn, once it is certain that its holder is gone; `RunHeld` if he is not."""
    turn = latest(_folder(run))
    held = _is_held(_folder(run), turn, flock)
    if held or (held is None and not watch):
        raise _held(run, turn)
    return turn if held is False or turn is None else _watch(run, turn)


def _is_held(folder: Path, turn: Turn | None, flock: bool | None) -> bool | None:
    """Whether a turn's holder lives, as far as the lock tells (True: it is free); None if it cannot tell."""
    if turn is None or turn.over:
        return flock is False  # somebody is about to begin
    if turn.locked and flock is not None and (turn.boot == boot() or filesystem_of(folder) in OWN_DISK):
        return not flock
    return None


def _watch(run: RunFolder, turn: Turn) -> Turn | None:
    """Wait until the count moves (then he lives: `RunHeld`), he lets go, or it stood still for long enough; return the last turn."""
    sys.stderr.write(f"ratchet: the run {run.name} was last in the hands of {turn}; watching whether it is alive, for {TTL_S:.0f} s at most …\n")
    sys.stderr.flush()
    began = time.monotonic()
    while True:
        now = time.monotonic()  # before looking: if this process is frozen in between, it has looked late, not waited long
        seen = latest(_folder(run))
        if seen is None or seen.over:
            return seen
        if (seen.token, seen.beat) != (turn.token, turn.beat):
            raise _held(run, seen)
        if now - began >= TTL_S:
            return seen
        time.sleep(min(POLL_S, TTL_S))


def _begin(folder: Path, turn: Turn) -> bool:
    """Begin a turn; False if another taker was faster."""
    temporary = _put(folder / f".{turn.token}", turn)
    try:
        os.link(temporary, folder / _name(turn.number))
    except FileExistsError:
        pass  # another's, or ours: a network filesystem repeats a call whose answer was lost
    finally:
        temporary.unlink(missing_ok=True)
    now = latest(folder)
    return now is not None and now.token == turn.token


def _age(folder: Path, turn: Turn) -> float:
    """How long ago a count was raised, on the clock of whoever keeps the files; 0 if one may not ask."""
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        with (folder / _name(turn.number)).open() as file, probe.open("x") as now:
            return os.fstat(now.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink()


def _acquire(lock: Lock, *, patient: bool = True) -> bool | None:
    """Whether the lock is ours now; None where there is no such thing."""
    for pause in (0.01, 0.05, 0.2, 0.0) if patient else (0.0,):  # who asks `is_held` has it for a moment
        try:
            if lock.try_acquire():
                return True
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            return None
        time.sleep(pause)
    return False


def _is_free(path: Path) -> bool | None:
    try:
        return not is_locked(path)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return None


def _turn(number: int, *, locked: bool) -> Turn:
    """A turn of this process."""
    return Turn(
        number=number,
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot=boot(),
        pid=os.getpid(),
        since=time.time(),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        locked=locked,
    )


def boot() -> str:
    """What tells this kernel, since it was booted, from any other."""
    with suppress(FileNotFoundError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _held(run: RunFolder, turn: Turn | None) -> RunHeld:
    by, command = ("another driver", "") if turn is None or turn.over else (str(turn), f"\n  command: {turn.command}")
    return RunHeld(f"the run {run.name} is held by {by}{command}\n  next: wait for it, or end that process and give the same command again")


def _folder(run: RunFolder) -> Path:
    return run.folder / "lease"


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _names(folder: Path) -> list[str]:
    """The files of turns, oldest first."""
    try:
        return sorted((entry.name for entry in os.scandir(folder) if entry.name.endswith(".json")), key=lambda name: int(Path(name).stem))
    except FileNotFoundError:
        return []


def _put(path: Path, turn: Turn) -> Path:
    path.write_bytes(canonical(asdict(turn)))
    return path
