"""Schedules and their firings, as files: what runs when, and how far each firing came.

.ratchet/schedules/
├── <name>.json              what was asked for; `ratchet serve` makes a Prefect deployment of it, and would again of a wiped Prefect
└── <name>/
    ├── open/<due>.json      firings that have begun and not ended: whoever serves next sees to them
    ├── done/<due>.json      the others, the passed over ones too
    └── log/<due>            what their runs printed

A firing is the run `<name>/<due>`, its seed derived from when it was due: begun again it is the same run, which is resume. A schedule
that *continues* is one run, to which each firing adds rounds; how many there are to be in the end is written down when it begins.
"""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ratchet.errors import InputError
from ratchet.identity import canonical, derive_seed
from ratchet.infra.executors import start_time, this_process
from ratchet.infra.lease import Lease
from ratchet.infra.runs import STATE, RunFolder
from ratchet.infra.store import write_atomic

OVERLAP = ("skip", "queue")
"""What becomes of a firing that is due while one of its schedule is at work: passed over, or begun after it."""

MISSED = ("run-once", "skip")
"""What becomes of firings that were due while nobody served: the latest of them is made up for, or none."""

FIXED = ("name", "root", "rounds")
"""Keys that a schedule gives its runs itself; `rounds` only if it continues one run."""

STAMP = "%Y-%m-%dT%H-%M-%SZ"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What `ratchet schedule` asked for."""

    name: str
    words: Sequence[str] = ()
    config_dir: str | None = None
    cron: str | None = None
    every_s: int | None = None
    tz: str = "UTC"
    overlap: str = "skip"
    missed: str = "run-once"
    continues: int | None = None
    """How many rounds each firing adds to the run that is called like the schedule; None: each firing is a run of its own."""
    on_failure: str | None = None
    """The Prefect block, TYPE/NAME, that is told of a firing that failed."""
    on_finish: str | None = None
    seed: int = 0
    """The config's; each firing's is derived from it and from when it was due."""
    since: str = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0).isoformat())
    """Nothing before this was due; intervals count from here."""

    @property
    def when(self) -> str:
        """When it fires, for people."""
        return f"{self.cron} ({self.tz})" if self.cron else f"every {self.every_s} s"

    def checked(self) -> Self:
        """The schedule, if Prefect can fire it and its words leave alone what is the schedule's to give."""
        if (self.cron is None) == (self.every_s is None):
            raise InputError("a schedule needs a time", allowed='one of --cron "0 2 * * *" and --every SECONDS')
        if self.every_s is not None and self.every_s < 1:
            raise InputError("--every has a wrong value", got=self.every_s, allowed="a whole number of seconds from 1")
        if self.continues is not None and self.continues < 1:
            raise InputError("--continue has a wrong value", got=self.continues, allowed="a whole number of rounds from 1")
        try:
            ZoneInfo(self.tz)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InputError(
                "--tz has a wrong value", got=self.tz, allowed="a name of the time zone database, such as Europe/Berlin or UTC"
            ) from None
        if self.cron is not None:
            _check_cron(self.cron)
        for block in filter(None, (self.on_failure, self.on_finish)):
            if not re.fullmatch(r"[a-z0-9-]+/[^/\s]+", block):
                raise InputError("that names no Prefect block", got=block, allowed="TYPE/NAME, as in slack-webhook/team (`prefect block ls`)")
        check_words(self.words, continues=self.continues is not None)
        return self

    def due_before(self, moment: datetime) -> datetime | None:
        """The latest time before a moment at which it was due; None if there was none yet."""
        if self.every_s:
            first, step = datetime.fromisoformat(self.since), timedelta(seconds=self.every_s)
            count = -((first - moment) // step) - 1
            return first + count * step if count > 0 else None
        found = self._step(moment, "get_prev")
        return found if found > datetime.fromisoformat(self.since) else None

    def due_after(self, moment: datetime) -> datetime:
        """When it is due next."""
        if self.every_s:
            first, step = datetime.fromisoformat(self.since), timedelta(seconds=self.every_s)
            return first + max(1, (moment - first) // step + 1) * step
        return self._step(moment, "get_next")

    def _step(self, moment: datetime, which: str) -> datetime:
        """Cron means the clock on the wall: it is counted there, and only then put on the world's."""
        from prefect._vendor.croniter import croniter

        zone = ZoneInfo(self.tz)
        wall = getattr(croniter(self.cron, moment.astimezone(zone).replace(tzinfo=None)), which)(datetime)
        return wall.replace(tzinfo=zone).astimezone(UTC)


def _check_cron(cron: str) -> None:
    from prefect._vendor.croniter import croniter

    if len(cron.split()) != 5 or not croniter.is_valid(cron):
        raise InputError(
            "--cron has a wrong value", got=repr(cron), allowed='minute hour day month weekday, as in "0 2 * * *" or "*/30 9-17 * * mon-fri"'
        )


def check_words(words: Sequence[str], *, continues: bool) -> None:
    """Refuse words that would name, place or lengthen the runs of a schedule, which it does itself."""
    own = FIXED if continues else FIXED[:2]
    if wrong := [word for word in words if word.partition("=")[0].lstrip("+~") in own]:
        raise InputError(f"a schedule gives its runs their {' and '.join(own)}", got=" ".join(wrong), next="leave that out")


@dataclass(frozen=True, kw_only=True)
class Firing:
    """One time that a schedule was due, and what became of it."""

    schedule: str
    due: datetime
    words: Sequence[str]
    run: str
    """The name of its run."""
    flow_run: str
    config_dir: str | None = None
    attempts: int = 0
    """How often it was begun since somebody asked for it; a process that dies is begun again a few times only."""
    begun: float = 0.0
    process: Mapping[str, Any] | None = None
    log_from: int = 0
    """Where in its log the attempt under way begins."""
    ended: str | None = None
    """`finished`, `failed`, `cancelled`, or why it was passed over; None while it is to go on."""
    code: int | None = None

    @classmethod
    def first(cls, schedule: Schedule, due: datetime, words: Sequence[str], flow_run: str, root: Path) -> Self:
        """A firing as it is when it begins."""
        check_words(words, continues=schedule.continues is not None)
        if schedule.continues is None:
            run = f"{schedule.name}/{due.strftime(STAMP)}"
            given = [word.partition("=")[2] for word in words if word.startswith("seed=")]
            words = [*words, f"seed={derive_seed(given[-1] if given else str(schedule.seed), due.strftime(STAMP))}"]
        else:
            run = schedule.name
            words = [*words, f"rounds={rounds_of(RunFolder(root, run)) + schedule.continues}"]
        return cls(schedule=schedule.name, due=due, words=words, run=run, flow_run=flow_run, config_dir=schedule.config_dir)

    def command(self, root: Path) -> list[str]:
        """What begins it, or begins it again."""
        own = ["--config-dir", self.config_dir] if self.config_dir else []
        return [sys.executable, "-P", "-m", "ratchet.flows.cli", "run", *own, *self.words, "--name", self.run, "--root", str(root)]

    def typed(self) -> str:
        """The same, as one would type it."""
        return shlex.join(["ratchet", *self.command(Path())[4:-2]])

    def lives(self, root: Path) -> bool:
        """Whether something is still at work on it: its process here, or whoever holds its run."""
        return self.process_lives() or Lease.is_held(RunFolder(root, self.run))

    def process_lives(self) -> bool:
        mine = self.process
        return bool(mine and mine["host"] == this_process()["host"] and mine["start"] and start_time(mine["pid"]) == mine["start"])


def rounds_of(run: RunFolder) -> int:
    """How many rounds a run has."""
    return max((event["round"] for event in run.ledger if event["kind"] == "advanced"), default=0) if run.exists() else 0


@dataclass(frozen=True)
class Book:
    """The schedules of a root and their firings, on disk."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / STATE / "schedules"

    def schedules(self) -> list[Schedule]:
        """All schedules, by name."""
        names = [unquote(path.stem) for path in sorted(self.folder.glob("*.json")) if not path.name.startswith(".")]
        return [found for name in names if (found := self.find(name))]

    def find(self, name: str) -> Schedule | None:
        found = _read(self._path(name))
        return Schedule(**found) if found else None

    def get(self, name: str) -> Schedule:
        """A schedule that there must be."""
        if found := self.find(name):
            return found
        raise InputError(f"there is no schedule {name!r} under {self.root}", allowed=", ".join(one.name for one in self.schedules()) or "none yet")

    def put(self, schedule: Schedule) -> None:
        """Keep a schedule, in place of one of that name."""
        write_atomic(self._path(schedule.name), canonical(asdict(schedule)))

    def remove(self, name: str) -> None:
        """Forget a schedule; what it fired stays, and what is at work goes on."""
        self.get(name)
        self._path(name).unlink(missing_ok=True)

    def save(self, firing: Firing) -> Firing:
        """Write down how far a firing came."""
        kept, other = self._firing(firing, "done"), self._firing(firing, "open")
        if firing.ended is None:
            kept, other = other, kept
        write_atomic(kept, canonical({**asdict(firing), "due": firing.due.isoformat()}))
        other.unlink(missing_ok=True)
        return firing

    def firing(self, schedule: str, due: datetime) -> Firing | None:
        """What is known of the firing that was due then."""
        stamp = f"{due.strftime(STAMP)}.json"
        # What is done is written before `open` is cleared, what is reopened before `done` is: `open` is read first and last.
        places = [self._firings(schedule) / place / stamp for place in ("open", "done", "open")]
        return next((_firing(found) for place in places if (found := _read(place))), None)

    def open(self, schedule: str | None = None) -> list[Firing]:
        """Firings that have begun and not ended, oldest first."""
        folders = [self._firings(schedule)] if schedule else [path for path in sorted(self.folder.glob("*")) if path.is_dir()]
        found = [_read(path) for folder in folders for path in sorted((folder / "open").glob("*.json"))]
        return sorted((_firing(one) for one in found if one), key=lambda firing: firing.due)

    def last(self, schedule: str) -> Firing | None:
        """The latest firing of a schedule, begun or passed over."""
        names = [path.stem for path in self._firings(schedule).glob("*/*.json")]
        return self.firing(schedule, datetime.strptime(max(names), STAMP).replace(tzinfo=UTC)) if names else None

    def log(self, firing: Firing) -> Path:
        """What its run printed."""
        return self._firings(firing.schedule) / "log" / firing.due.strftime(STAMP)

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='=,')}.json"

    def _firings(self, schedule: str) -> Path:
        return self.folder / quote(schedule, safe="=,")

    def _firing(self, firing: Firing, place: str) -> Path:
        return self._firings(firing.schedule) / place / f"{firing.due.strftime(STAMP)}.json"


def _firing(found: Mapping[str, Any]) -> Firing:
    return Firing(**{**found, "due": datetime.fromisoformat(found["due"])})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found


def missed(schedule: Schedule, last: Firing | None, moment: datetime) -> datetime | None:
    """The latest time before a moment at which a schedule was due and nothing is written down; None if there is none."""
    due = schedule.due_before(moment)
    return due if due and (last is None or last.due < due) else None


def passed_over(schedule: Schedule, due: datetime, flow_run: str, why: str) -> Firing:
    """A firing that is not begun, and why."""
    return replace(
        Firing(schedule=schedule.name, due=due, words=schedule.words, run=f"{schedule.name}/{due.strftime(STAMP)}", flow_run=flow_run),
        ended=f"passed over: {why}",
    )


def schedules_table(found: Sequence[tuple[Schedule, Firing | None, str]]) -> Any:
    """One row a schedule, with its last firing and when it is due next."""
    from rich.table import Table

    table = Table()
    for name in ("schedule", "when", "next (UTC)", "overlap", "missed", "last run", "ended"):
        table.add_column(name, no_wrap=name in ("schedule", "last run"))
    for schedule, last, due in found:
        words = (last.ended or "at work") if last else "–"
        table.add_row(schedule.name, schedule.when, due[:19].replace("T", " "), schedule.overlap, schedule.missed, last.run if last else "–", words)
    return table
