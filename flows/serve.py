"""`ratchet serve`: the one process that lets schedules fire. Prefect says when, the schedules' files say what, this begins the runs.

A firing's run is a process of its own that outlives this one: if `serve` is killed its runs go on, and the next `serve` finds them. One
whose process died is begun again, which is resume. So this may be killed, and its server too, at any moment; what is lost is the time
until it is back. It is not Prefect's own runner that begins the runs, because that one cancels them when it is stopped, and Prefect's
engine cancels a run whose place in a concurrency limit a restarted server has forgotten.

    due, nobody at work on the schedule     begun
    due, somebody at work on it             overlap=skip: passed over; overlap=queue: waits
    due while nobody served                 missed=run-once: the latest of them is begun now; missed=skip, and all others: passed over
    its process died                        Crashed, scheduled again by the automation, begun again; ATTEMPTS times
    its run failed                          Failed: somebody's to look at; a retry from Prefect's page begins it again
    cancelled on Prefect's page             `ratchet cancel`
"""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ratchet.errors import InputError, RunHeld
from ratchet.flows.deployments import Json, Office, Refused, lost_s, office, words_of
from ratchet.flows.notices import Notices
from ratchet.flows.prefect_server import answers, hold
from ratchet.flows.schedules import Book, Firing, Schedule, missed, passed_over
from ratchet.infra.claims import Lock, is_locked
from ratchet.infra.executors import start_time, this_process
from ratchet.infra.lease import Lease
from ratchet.infra.runs import RunFolder, make_root

ATTEMPTS = 5
"""How often a firing whose process dies is begun before it counts as failed."""

POLL_S = 0.5
LOOK_S = 2.0
"""How often Prefect is asked whether somebody cancelled what is at work."""

MEND_S = 10.0
"""How often firings that nobody works on are looked for; the automation that schedules them again is faster."""

PUBLISH_S = 60.0
"""How often Prefect's deployments are compared with the schedules even if none of these changed."""

LEASE_S = 60.0
HELD_AGAIN_S = 5.0
VACATE_S = 30.0
"""For how long Prefect may say that a schedule is at its limit when nothing of it is at work."""

TAIL = 2000

FINAL = {"COMPLETED": "finished", "FAILED": "failed", "CANCELLED": "cancelled"}


def lock_of(book: Book) -> Path:
    """Held by whoever serves a root on this machine."""
    return book.folder / f"serve-{socket.gethostname()}.lock"


def is_served(book: Book) -> bool:
    """Whether somebody serves a root on this machine."""
    return is_locked(lock_of(book))


def serve(root: Path, pool: str | None = None) -> int:
    """Let the schedules of a root fire until Ctrl-C; returns the exit code."""
    make_root(root)
    book = Book(root)
    with Lock(lock_of(book)) as lock:
        if not lock.try_acquire():
            raise RunHeld(f"the schedules of {root} are served on this machine already\n  next: `ratchet schedules --root {root}` shows them")
        desk = Desk(book, pool)
        try:
            while True:
                with hold(root, _say) as url:
                    if url:
                        desk.attend(url)
                time.sleep(LOOK_S)
        except KeyboardInterrupt:
            _say(f"ratchet: {len(desk.going)} runs under way go on; the next `ratchet serve` sees to them")
            return 0


@dataclass
class Going:
    """A firing at work."""

    firing: Firing
    process: "subprocess.Popen[bytes] | None" = None
    """None: begun by a process before this one, or by hand."""
    lease: str | None = None
    cancelled: bool = False

    def over(self, root: Path) -> bool:
        return self.process.poll() is not None if self.process else not self.firing.lives(root)


@dataclass
class Desk:
    """Who begins the runs, and sees to them; goes on when its server is another one."""

    book: Book
    pool: str | None = None
    notices: Notices = field(init=False)
    going: dict[str, Going] = field(default_factory=dict[str, Going])
    """Flow run → what is at work on it."""
    attended: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Since when this server is watched without a break: what was due before is missed."""
    _office: Office | None = None
    _schedules: list[Schedule] | None = None
    _made_up: set[tuple[str, datetime]] = field(default_factory=set[tuple[str, datetime]])
    _at_limit: dict[str, float] = field(default_factory=dict[str, float])
    _next: dict[str, float] = field(default_factory=dict[str, float])
    _told: str = ""

    def __post_init__(self) -> None:
        self.notices = Notices(self.book, _say)

    @property
    def root(self) -> Path:
        return self.book.root

    @property
    def office(self) -> Office:
        assert self._office is not None
        return self._office

    def attend(self, url: str) -> None:
        """Work with a server for as long as it answers."""
        with office(self.root, url, self.pool) as self._office:
            self.attended, self._schedules, self._next = datetime.now(UTC), None, {}
            begun = False
            while self._tried(url, self.tick if begun else self.begin):
                if not begun and self._told == "":
                    begun = True
                    _say(f"serving {len(self._schedules or ())} schedules of {self.root}; their page is {url.removesuffix('/api')}/deployments")
                time.sleep(POLL_S)
            _say("ratchet: Prefect's server does not answer any more; what is at work goes on")

    def _tried(self, url: str, step: Any) -> bool:
        """Take a step; whether the server is still there. What it refuses is said once, and tried again."""
        import httpx

        try:
            step()
            self._told = ""
        except (Refused, httpx.HTTPError) as error:
            if isinstance(error, httpx.HTTPError) and not answers(url):
                return False
            if self._told != str(error):
                _say(f"ratchet: {error}")
            self._told = str(error) or type(error).__name__
        return True

    def begin(self) -> None:
        """What there is to do when a server is met."""
        self._publish()
        self._mend(at_once=True)
        self._make_up()

    def tick(self) -> None:
        """See to everything once."""
        if self.book.schedules() != self._schedules or self._is_time("publish", PUBLISH_S):
            self._publish()
        for id, going in list(self.going.items()):
            if going.over(self.root):
                self._conclude(id, going)
        if self._is_time("beat", lost_s() / 3):
            self.office.beat(self.going)
        if self._is_time("lease", LEASE_S):
            for lease in filter(None, (going.lease for going in self.going.values())):
                self.office.renew(lease)
        if self._is_time("look", LOOK_S):
            self._cancel()
        if self._is_time("mend", MEND_S):
            self._mend()
        for flow_run in self.office.due(datetime.now(UTC)):
            self._claim(flow_run)
        self.notices.tick(self.office.url)

    def _is_time(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every_s
        return True

    def _publish(self) -> None:
        schedules = self.book.schedules()
        for complaint in self.office.publish(schedules):
            _say(f"ratchet: {complaint}")
        self._schedules = schedules
        self._next["publish"] = time.monotonic() + PUBLISH_S

    def _schedule(self, name: str) -> Schedule | None:
        return next((one for one in self._schedules or () if one.name == name), None)

    def _make_up(self) -> None:
        """Choose, of what was due while nobody served, what is to be made up for; Prefect may know of it or not."""
        late = self.office.due(self.attended)
        for schedule in self._schedules or ():
            if schedule.missed == "skip" or schedule.name in self.office.paused:
                continue
            mine = [due_of(one) for one in late if one["deployment_id"] == self.office.deployments[schedule.name]]
            mine = [due for due in mine if self.book.firing(schedule.name, due) is None]
            unknown = missed(schedule, self.book.last(schedule.name), self.attended)
            latest = max([*mine, *([unknown] if unknown else [])], default=None)
            if latest is None:
                continue
            self._made_up.add((schedule.name, latest))
            if latest not in mine:
                self.office.add(schedule.name, latest, None, f"missed {latest.isoformat()}")

    def _claim(self, flow_run: Json) -> None:
        """Begin a firing that is due, unless it must wait or is passed over."""
        name = next((name for name, id in self.office.deployments.items() if id == flow_run["deployment_id"]), None)
        schedule = self._schedule(name) if name else None
        if schedule is None:
            return
        id, due = str(flow_run["id"]), due_of(flow_run)
        firing = self.book.firing(schedule.name, due)
        if firing and firing.ended is None and firing.lives(self.root):
            self._keep(firing, id)
            return
        fresh = firing is None or firing.ended is not None
        if firing and firing.ended in FINAL.values() and firing.flow_run != id:
            self.office.set(id, "CANCELLED", name="Skipped", message=f"{firing.run} {firing.ended} in another flow run")
            return
        by_itself = bool(flow_run["auto_scheduled"]) or (schedule.name, due) in self._made_up
        if firing is None and by_itself and due < self.attended and (schedule.name, due) not in self._made_up:
            self._pass_over(schedule, due, id, "Missed", "nobody served when it was due")
            return
        if busy := self._busy(schedule, due):
            if firing is None and by_itself and schedule.overlap == "skip":
                self._pass_over(schedule, due, id, "Skipped", f"{busy} was at work when it was due")
            return
        try:
            if firing is None or (firing.ended or "").startswith("passed over"):
                firing = Firing.first(schedule, due, words_of(flow_run, schedule), id, self.root)
        except (InputError, ValueError) as error:
            self.office.set(id, "FAILED", message=str(error))
            return
        if not fresh and cancelled_since(RunFolder(self.root, firing.run), firing.begun):
            self._end(replace(firing, flow_run=id), "CANCELLED", "cancelled by `ratchet cancel`", None)
            return
        if (pending := self._secured(schedule, id)) is not None:
            self._begin(replace(firing, flow_run=id, attempts=0 if fresh else firing.attempts, ended=None, code=None), pending)

    def _busy(self, schedule: Schedule, due: datetime) -> str | None:
        """What of a schedule is not ended yet; a firing that died and waits for its next attempt counts too."""
        others = [firing.run for firing in self.book.open(schedule.name) if firing.due != due]
        if schedule.continues and not others and Lease.is_held(RunFolder(self.root, schedule.name)):
            others = [f"the run {schedule.name}"]
        return others[0] if others else None

    def _secured(self, schedule: Schedule, id: str) -> Json | None:
        """The state Pending of a flow run, with its place in the deployment's limit; None if there was no place, or another machine was faster."""
        accepted, state = self.office.propose(id, "PENDING")
        if accepted:
            self._at_limit.pop(schedule.name, None)
            return state
        if state.get("type") not in ("CANCELLED", "SCHEDULED"):
            return None  # another machine was faster
        # The limit's own rule; but nothing of the schedule is at work.
        self.office.set(id, "SCHEDULED", name="AwaitingConcurrencySlot", at=datetime.now(UTC) + timedelta(seconds=HELD_AGAIN_S))
        since = self._at_limit.setdefault(schedule.name, time.monotonic())
        if time.monotonic() - since > VACATE_S:
            self._at_limit.pop(schedule.name)
            self.office.vacate(schedule.name)
        return None

    def _begin(self, firing: Firing, pending: Json) -> None:
        """Start a firing's run. It is written down before, so that there is no run that nobody knows."""
        log = self.book.log(firing)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            begun = replace(firing, attempts=firing.attempts + 1, begun=time.time(), process=None, log_from=out.tell())
            self.book.save(begun)
            process = subprocess.Popen(begun.command(self.root), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        record = {**this_process(), "pid": process.pid, "start": start_time(process.pid)}
        begun = self.book.save(replace(begun, process=record))
        lease = (pending.get("state_details") or {}).get("deployment_concurrency_lease_id")
        self.going[begun.flow_run] = Going(begun, process, lease)
        _say(f"{begun.run}: begun{f', attempt {begun.attempts}' if begun.attempts > 1 else ''}")
        self._show(begun, f"{begun.typed()}\nprocess {process.pid} on {socket.gethostname()}, attempt {begun.attempts}; its output: {log}")

    def _keep(self, firing: Firing, id: str) -> None:
        """See to a firing that is at work already: begun by a `serve` before this one, or resumed by hand."""
        if id in self.going:  # Prefect thought it dead, or was told so twice
            self.office.set(id, "RUNNING", message=firing.typed())
            return
        firing = self.book.save(replace(firing, flow_run=id))
        self.going[id] = Going(firing)
        self._show(firing, "it was at work when this `ratchet serve` began")

    def _show(self, firing: Firing, text: str) -> None:
        self.office.set(firing.flow_run, "RUNNING", message=firing.typed())
        self.office.beat([firing.flow_run])
        self.office.name(firing.flow_run, firing.run)
        self.office.log(firing.flow_run, text)

    def _pass_over(self, schedule: Schedule, due: datetime, id: str, name: str, why: str) -> None:
        self.book.save(firing := passed_over(schedule, due, id, why))
        self.office.name(id, firing.run)
        self.office.set(id, "CANCELLED", name=name, message=why)
        _say(f"{firing.run}: passed over, {why}")

    def _conclude(self, id: str, going: Going) -> None:
        """Say how a firing ended, or have it begun again."""
        firing = going.firing
        code = going.process.returncode if going.process else None
        run = RunFolder(self.root, firing.run)
        if going.cancelled or (code == 130 and cancelled_since(run, firing.begun)):
            self._end(firing, "CANCELLED", "cancelled: what is published stays", code)
        elif code == 0 or (code is None and ended_since(run, firing.begun)):
            self._end(firing, "COMPLETED", ended_since(run, firing.begun) or "finished", code)
        elif code == 3:  # somebody resumed the same run by hand: this waits for them
            at = datetime.now(UTC) + timedelta(seconds=HELD_AGAIN_S)
            self.office.set(id, "SCHEDULED", name="AwaitingRetry", message="another driver has the run", at=at)
            self.book.save(replace(firing, attempts=firing.attempts - 1))
        elif code is not None and 0 < code != 130:
            self._end(firing, "FAILED", f"exit code {code}: {said(self.book.log(firing), firing.log_from)}", code)
        elif firing.attempts >= ATTEMPTS:
            self._end(firing, "FAILED", f"its process died {firing.attempts} times; its output: {self.book.log(firing)}", code)
        else:
            how = f"was killed by signal {-code}" if code is not None and code < 0 else "ended before its run did"
            _say(f"{firing.run}: its process {how}")
            self.office.set(id, "CRASHED", message=f"its process {how}")
        self.going.pop(id, None)

    def _end(self, firing: Firing, type: str, message: str, code: int | None) -> None:
        """Tell Prefect, then write it down: who dies in between finds in Prefect what is missing here."""
        if output := said(self.book.log(firing), firing.log_from):
            self.office.log(firing.flow_run, output)
        self.office.set(firing.flow_run, type, message=message)
        self._ended(firing, type, message, code)
        _say(f"{firing.run}: {message.splitlines()[0]}")

    def _ended(self, firing: Firing, type: str, message: str, code: int | None) -> None:
        """Write it down, and who is to be told; that first, so that nobody is forgotten."""
        self.notices.owe(self._schedule(firing.schedule), firing, FINAL[type], message, self.office.page(firing.flow_run))
        self.book.save(replace(firing, ended=FINAL[type], code=code, process=None))

    def _cancel(self) -> None:
        """Cancel what somebody cancelled on Prefect's page."""
        for id, going in self.going.items():
            state = ((self.office.flow_run(id) or {}).get("state") or {}).get("type")
            if state in ("CANCELLING", "CANCELLED") and not going.cancelled:
                going.cancelled = True
                if RunFolder(self.root, going.firing.run).exists():
                    words = ["cancel", going.firing.run, "--root", str(self.root)]
                    subprocess.Popen([sys.executable, "-P", "-m", "ratchet.flows.cli", *words], stdout=subprocess.DEVNULL, start_new_session=True)
                elif going.process:
                    going.process.terminate()

    def _mend(self, *, at_once: bool = False) -> None:
        """Find firings that are not ended and that nobody sees to, and have them gone on with."""
        seen = {(going.firing.schedule, going.firing.due) for going in self.going.values()}
        for firing in self.book.open():
            if (firing.schedule, firing.due) in seen:
                continue
            elsewhere = firing.process is None or firing.process["host"] != this_process()["host"]
            if not firing.lives(self.root) and elsewhere and time.time() - firing.begun < VACATE_S:
                continue  # on another machine, or just about to have a process
            self._recover(firing, at_once=at_once)

    def _recover(self, firing: Firing, *, at_once: bool) -> None:
        """See to a firing whose `serve` died: with a process it is kept, without one it is scheduled again."""
        if self._schedule(firing.schedule) is None:
            if not firing.lives(self.root):
                self.book.save(replace(firing, ended="unscheduled", process=None))
            return
        found = self.office.flow_run(firing.flow_run)
        if found is None:  # Prefect was wiped
            id = self.office.add(firing.schedule, firing.due, None, f"again {firing.flow_run}")
            firing = self.book.save(replace(firing, flow_run=id))
            found = self.office.flow_run(id) or {}
        state = found.get("state") or {}
        if firing.lives(self.root):
            self._keep(firing, firing.flow_run)
        elif state.get("type") in FINAL:
            self._ended(firing, state["type"], state.get("message") or "", None)
        elif state.get("type") == "CANCELLING" or cancelled_since(RunFolder(self.root, firing.run), firing.begun):
            self._end(firing, "CANCELLED", "cancelled: what is published stays", None)
        elif firing.attempts >= ATTEMPTS and state.get("type") != "SCHEDULED":
            self._end(firing, "FAILED", f"its process died {firing.attempts} times; its output: {self.book.log(firing)}", None)
        elif reason := ended_since(RunFolder(self.root, firing.run), firing.begun):
            self._end(firing, "COMPLETED", reason, None)
        elif state.get("type") == "CRASHED":
            if at_once or time.time() - datetime.fromisoformat(state["timestamp"]).timestamp() > MEND_S:
                self.office.set(firing.flow_run, "SCHEDULED", name="AwaitingRetry", message="its process died; the run goes on")
        elif state.get("type") != "SCHEDULED":
            _say(f"{firing.run}: its process died while nobody served")
            self.office.set(firing.flow_run, "CRASHED", message="its process died while nobody served")


def due_of(flow_run: Mapping[str, Any]) -> datetime:
    """When a firing was due; that stays however often it is scheduled again."""
    return datetime.fromisoformat(flow_run["expected_start_time"]).astimezone(UTC).replace(microsecond=0)


def ended_since(run: RunFolder, moment: float) -> str | None:
    """How a run ended since then, in words; None if it has not."""
    ends = [event for event in run.ledger if event["kind"] in ("finished", "stopped") and event["at"] >= moment] if run.exists() else []
    return None if not ends else f"stopped: {ends[-1]['reason']}" if ends[-1]["kind"] == "stopped" else "finished"


def cancelled_since(run: RunFolder, moment: float) -> bool:
    """Whether a run was cancelled since then."""
    return run.exists() and any(event["kind"] == "cancelled" and event["at"] >= moment for event in run.ledger)


def said(log: Path, start: int) -> str:
    """What a run printed last in an attempt: its complaint, if it had one."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - TAIL))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    lines = text.strip().splitlines()
    complaints = [number for number, line in enumerate(lines) if line.startswith("ratchet: ")]
    if complaints:
        return "\n".join(lines[complaints[-1] :]).removeprefix("ratchet: ")
    return lines[-1] if "Traceback (most recent call last)" in text else "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
