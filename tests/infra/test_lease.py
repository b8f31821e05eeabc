"""One driver at a time, on one machine and on several: with real processes, frozen, killed and raced.

Other machines are processes that call themselves by other names and have no lock, which is what NFSv3 amounts to.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import RunHeld
from ratchet.infra import lease as lease_module
from ratchet.infra.lease import Lease, latest
from ratchet.infra.runs import RunFolder
from tests.toys.drive import TOYS, Warm, last_words, wait_until

TTL_S, BEAT_S = 1.5, 0.2

DRIVER = f"""
import json, os, sys, time
from pathlib import Path
from ratchet.errors import RunHeld
from ratchet.infra import lease
from ratchet.infra.runs import RunFolder

root, host, flock = sys.argv[1:4]
sys.argv = ["/usr/bin/ratchet", "run", "seed=1"]
lease.BEAT_S, lease.TTL_S, lease.POLL_S = {BEAT_S}, {TTL_S}, 0.05
lease.OWN_DISK = set()  # the folder is on a network
if host != "here":
    lease.socket.gethostname = lambda: host
    lease.boot = lambda: f"boot of {{host}}"
if flock == "none":
    def no_flock(*_):
        raise OSError(lease.errno.ENOLCK, "no locks")
    lease.Lock.try_acquire, lease.is_locked = no_flock, no_flock
if flock == "apart":  # every machine has locks of its own
    lease.Lock.try_acquire, lease.is_locked = lambda self: True, lambda path: False
try:
    held = lease.Lease.take(RunFolder(Path(root), "r"))
except RunHeld as error:
    print(f"refused {{error}}", flush=True)
    sys.exit(error.exit_code)
print(f"held {{held.turn.number}}", flush=True)
for word in sys.stdin:
    try:
        held.check()
        print("mine", flush=True)
    except RunHeld as error:
        print(f"lost {{error}}", flush=True)
        sys.exit(error.exit_code)
held.release()
"""


class Driver:
    """A driver in a process of its own, that holds the run until it is told otherwise."""

    def __init__(self, root: Path, host: str, flock: str) -> None:
        command = [sys.executable, "-c", DRIVER, str(root), host, flock]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command, text=True, **pipes)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def asks(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("check\n")
        self.process.stdin.flush()
        return self.says()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def end(self) -> tuple[int, str]:
        """Let it release the run; its exit code and what it said on standard error."""
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


Start = Callable[..., Driver]


@pytest.fixture
def run(root: Path) -> RunFolder:
    return RunFolder(root, "r")


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    started = []

    def begin(host: str = "here", flock: str = "apart") -> Driver:
        started.append(Driver(root, host, flock))
        return started[-1]

    yield begin
    for driver in started:
        driver.process.kill()
        driver.process.wait()
        for pipe in (driver.process.stdin, driver.process.stdout, driver.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process too sees the folder as one on a network, with a clock as quick as the drivers'."""
    monkeypatch.setattr(lease_module, "OWN_DISK", set())
    monkeypatch.setattr(lease_module, "TTL_S", TTL_S)
    monkeypatch.setattr(lease_module, "BEAT_S", BEAT_S)
    monkeypatch.setattr(lease_module, "POLL_S", 0.05)


# one machine


def test_a_run_is_held_by_one_driver_until_that_one_dies_however_it_dies(run: RunFolder, start: Start) -> None:
    assert not Lease.is_held(run)
    holder = start(flock="real")
    assert "held 1" == holder.says()
    assert Lease.is_held(run)
    with pytest.raises(RunHeld) as refused:
        Lease.take(run)
    said = rf"the run r is held by process {holder.process.pid} on {os.uname().nodename} since \d{{4}}-.*\n  command: ratchet run seed=1\n"
    assert refused.match(said)
    assert 3 == refused.value.exit_code
    holder.signal(signal.SIGKILL)
    assert not Lease.is_held(run), "at once: the kernel freed the lock"
    began = time.monotonic()
    with Lease.take(run) as mine:
        assert 1.0 > time.monotonic() - began
        assert (2, True) == (mine.turn.number, Lease.is_held(run))
    assert not Lease.is_held(run)


def test_a_frozen_driver_on_the_same_machine_keeps_its_run(run: RunFolder, start: Start, shared: None) -> None:
    holder = start(flock="real")
    assert "held 1" == holder.says()
    holder.signal(signal.SIGSTOP)
    time.sleep(TTL_S + 0.3)
    assert Lease.is_held(run)
    with pytest.raises(RunHeld, match="is held by"):
        Lease.take(run)
    holder.signal(signal.SIGCONT)
    assert "mine" == holder.asks()
    assert 0 == holder.end()[0]


@pytest.mark.parametrize("flock", ["real", "none", "apart"])
def test_of_six_drivers_that_start_at_once_one_has_the_run(run: RunFolder, start: Start, flock: str) -> None:
    drivers = [start(host="here" if flock == "real" else f"host-{n}", flock=flock) for n in range(6)]
    first = [driver.says().split()[0] for driver in drivers]
    assert {"held": 1, "refused": 5} == {word: first.count(word) for word in first}
    winner = drivers[first.index("held")]
    assert "mine" == winner.asks()
    assert [3] * 5 == [driver.end()[0] for driver in drivers if driver is not winner]
    assert 0 == winner.end()[0]
    assert not Lease.is_held(run)


def test_of_six_commands_given_at_once_one_makes_the_run_and_each_stage_once(ratchet: Warm, root: Path) -> None:
    words = ("run", *TOYS, "recipe=rest_em", "rounds=1", "synthesis.seconds=0.01", "--no-prefect", "--name", "r")
    going = [ratchet.start(*words, root=root) for _ in range(6)]
    done = [one.wait() for one in going]
    assert [0, 3, 3, 3, 3, 3] == sorted(one.code for one in done)
    (worker,) = (one.pid for one, how in zip(going, done, strict=True) if how.code == 0)
    assert all(f"held by process {worker} on " in how.err or "held by another driver" in how.err for how in done if how.code)
    assert {("published",)} == {tuple(words) for words in last_words(root).values()}
    assert 1 == sum(event["kind"] == "driver" for event in RunFolder(root, "r").ledger)


def test_a_disk_of_ones_own_needs_no_watching_after_a_reboot(run: RunFolder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another boot id, the same disk: the lock tells of every driver there can be."""
    monkeypatch.setattr(lease_module, "filesystem_of", lambda path: "ext4")
    left = Lease.take(run)
    record = root / "r" / "lease" / "000001.json"
    left.release()
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "the one before", "over": False}))
    assert not Lease.is_held(run)
    with Lease.take(run, watch=False) as mine:
        assert 2 == mine.turn.number


# several machines


def test_a_living_driver_elsewhere_is_found_alive_by_its_heart(run: RunFolder, start: Start) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    other = start("beta")
    assert f"refused the run r is held by process {one.process.pid} on alpha since" in other.says()
    code, err = other.end()
    assert 3 == code
    assert f"the run r was last in the hands of process {one.process.pid} on alpha" in err
    assert f"watching whether it is alive, for {TTL_S:.0f} s at most" in err
    assert "mine" == one.asks()


@pytest.mark.parametrize("flock", ["none", "apart"])
def test_a_dead_driver_elsewhere_is_taken_over_from_when_its_heart_stood_still(run: RunFolder, start: Start, flock: str) -> None:
    one = start("alpha", flock)
    assert "held 1" == one.says()
    one.signal(signal.SIGKILL)
    began = time.monotonic()
    other = start("beta", flock)
    assert "held 2" == other.says()
    assert TTL_S <= time.monotonic() - began
    assert 0 == other.end()[0]


def test_of_several_that_watched_a_dead_driver_one_takes_over(run: RunFolder, start: Start) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    one.signal(signal.SIGKILL)
    others = [start(f"beta-{n}") for n in range(4)]
    first = [other.says().split()[0] for other in others]
    assert {"held": 1, "refused": 3} == {word: first.count(word) for word in first}


def test_a_driver_that_let_go_is_followed_at_once(run: RunFolder, start: Start) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    assert 0 == one.end()[0]
    other = start("beta")
    assert "held 2" == other.says()
    assert (0, "") == other.end(), "nothing to watch"


def test_a_driver_that_lets_go_while_it_is_watched_is_followed_at_once(run: RunFolder, start: Start) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    one.signal(signal.SIGSTOP)
    other = start("beta")
    assert other.process.stderr is not None
    assert "watching" in other.process.stderr.readline()
    one.process.stdin.close()  # type: ignore[union-attr]
    one.signal(signal.SIGCONT)
    assert other.says().startswith(("held 2", "refused")), "refused only if a last beat came first"


def test_a_driver_that_was_frozen_finds_out_before_its_next_word_and_does_no_harm(run: RunFolder, start: Start) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    one.signal(signal.SIGSTOP)
    other = start("beta")
    assert "held 2" == other.says()
    one.signal(signal.SIGCONT)
    time.sleep(3 * BEAT_S)
    said = one.asks()
    assert said.startswith(f"lost the run r was taken over by process {other.process.pid} on beta since ")
    assert 3 == one.process.wait()
    assert "mine" == other.asks()
    turn = latest(run.folder / "lease")
    assert turn is not None
    assert (2, "beta") == (turn.number, turn.host), "its heart beats no more"


def test_a_driver_that_was_frozen_and_not_missed_goes_on(run: RunFolder, start: Start) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    one.signal(signal.SIGSTOP)
    time.sleep(TTL_S + 0.2)
    one.signal(signal.SIGCONT)
    assert "mine" == one.asks()
    beat = latest(run.folder / "lease")
    assert beat is not None
    wait_until(lambda: (latest(run.folder / "lease") or beat).beat > beat.beat, "the next beat")


def test_a_watcher_that_is_frozen_itself_does_not_take_a_living_run(run: RunFolder, start: Start) -> None:
    """On its clock the time is up when it wakes; but it looks again."""
    one = start("alpha")
    assert "held 1" == one.says()
    one.signal(signal.SIGSTOP)
    other = start("beta")
    assert other.process.stderr is not None
    assert "watching" in other.process.stderr.readline()
    other.signal(signal.SIGSTOP)
    one.signal(signal.SIGCONT)
    time.sleep(TTL_S + 0.2)
    other.signal(signal.SIGCONT)
    assert other.says().startswith("refused the run r is held by")
    assert "mine" == one.asks()


def test_a_driver_whose_lock_outlives_it_is_taken_over_from_all_the_same(run: RunFolder, start: Start, shared: None) -> None:
    """A file server may keep the lock of a machine that is gone for ever."""
    one = start("alpha", "real")
    assert "held 1" == one.says()
    one.signal(signal.SIGSTOP)  # with its lock
    other = start("beta", "real")
    assert "held 2" == other.says()
    turn = latest(run.folder / "lease")
    assert turn is not None
    assert not turn.locked


def test_asking_about_another_machines_driver_is_quick_right_and_harmless(run: RunFolder, start: Start, shared: None) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    before = {path.name for path in (run.folder / "lease").iterdir()}
    began = time.monotonic()
    assert all(Lease.is_held(run) for _ in range(20))
    assert 1.0 > time.monotonic() - began
    assert before == {path.name for path in (run.folder / "lease").iterdir() if not path.name.startswith(".")}
    assert f"process {one.process.pid} on alpha since " in Lease.holder(run)
    with pytest.raises(RunHeld, match="on alpha"):
        Lease.take(run, watch=False)
    assert "mine" == one.asks()
    one.signal(signal.SIGKILL)
    assert Lease.is_held(run), "as far as one can know yet"
    time.sleep(TTL_S + 0.2)
    assert not Lease.is_held(run)


def test_asking_without_the_right_to_write_says_held_rather_than_free(run: RunFolder, start: Start, shared: None, monkeypatch: Any) -> None:
    one = start("alpha")
    assert "held 1" == one.says()
    one.signal(signal.SIGKILL)
    time.sleep(TTL_S + 0.2)

    whole = Path.open

    def refuse(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode == "x":
            raise PermissionError(13, "not yours")
        return whole(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert Lease.is_held(run)


# what goes wrong


def test_a_torn_file_is_nobodys_and_watched_like_anybodys(run: RunFolder, shared: None, capsys: pytest.CaptureFixture[str]) -> None:
    Lease.take(run).release()
    (run.folder / "lease" / "000001.json").write_text("")
    with pytest.raises(RunHeld, match="an unknown host"):
        Lease.take(run, watch=False)
    with Lease.take(run) as mine:
        assert 2 == mine.turn.number
    assert "watching" in capsys.readouterr().err


def test_a_link_whose_answer_was_lost_is_known_for_ones_own(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # what a network filesystem's client may do: raises FileExistsError

    monkeypatch.setattr(os, "link", twice)
    with Lease.take(run) as mine:
        mine.check()


def test_a_taker_that_comes_late_to_a_number_cleared_away_has_nothing(run: RunFolder) -> None:
    for _ in range(3):
        Lease.take(run).release()
    folder = run.folder / "lease"
    assert ["000003.json"] == [path.name for path in folder.glob("*.json")], "no more is kept than the last"
    with Lease.take(run):
        assert not lease_module._begin(folder, lease_module._turn(2, locked=False))


def test_a_run_that_was_deleted_under_its_driver_is_not_written_to_again(run: RunFolder) -> None:
    with Lease.take(run) as mine:
        run.folder.rename(run.root / "elsewhere")
        with pytest.raises(RunHeld, match="was deleted"):
            mine.check()
    assert not run.folder.exists()
