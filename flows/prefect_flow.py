"""A run as Prefect shows it: one flow run per command, one task run per stage, under the project's own server.

Prefect is told and never asked. Whatever it does, at the start, in the middle or at the end, the run goes on and ends as it would
have without it; all it costs is a warning. So Prefect caches, persists and retries nothing, and its tasks do no work: each waits in
a thread for what the driver says of its stage. A run that is continued is a new flow run, in which what was published before says
`Reused`; flow runs that a killed driver left behind are marked Crashed by the next driver of the run.
"""

import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from queue import SimpleQueue
from typing import Any, Generic, TypeVar
from uuid import UUID

from ratchet.artifacts import Manifest
from ratchet.champions import headline_of
from ratchet.errors import StageFailed
from ratchet.flows.compose import Config
from ratchet.flows.driver import View
from ratchet.flows.prefect_server import answers, hold, without_collecting
from ratchet.flows.summary import summary_of
from ratchet.flows.tables import rounds_columns
from ratchet.infra.executors import JobRecord
from ratchet.infra.lease import Lease
from ratchet.infra.runs import RunFolder
from ratchet.infra.views import is_network, view_folder
from ratchet.stages import Stage

T = TypeVar("T")

RECORDS_S = 15.0
"""How long to wait at the end until Prefect has recorded every stage: its task runs travel as events, in the background."""

QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",  # what is worth a log line is sent by the stages' tasks themselves
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # by default a server that is gone keeps the end of a flow waiting for 164 s
    "PREFECT_API_REQUEST_TIMEOUT": "10",
}
"""Unless the user's environment says otherwise."""

NOT_OVER = ("PENDING", "RUNNING", "CANCELLING")
PAGE = 200
"""How many rows Prefect's API gives at a time."""


def in_flow(run: RunFolder, config: Config, body: Callable[[Sequence[View]], T], *, warn: Callable[[str], None]) -> T:
    """What `body` returns or raises, once: called in a flow run with the view that keeps it, or with none if Prefect is not to be had."""
    turn = Turn(body)
    if not Lease.is_held(run):  # else the driver will say by whom, and there is nothing to show
        with hold(run.root, warn) as url:
            try:
                if url:
                    _observe(run, config, url, turn, warn)
            except Exception as error:  # noqa: BLE001  Prefect's boundary: anything may come, and none of it is the run's
                warn(f"Prefect does not show this run in full: {_brief(error)}")
            except BaseException:  # Ctrl-C while Prefect was at work
                if not turn.begun:
                    raise
    return turn.result()


@dataclass
class Turn(Generic[T]):
    """A body, called at most once, and how it ended."""

    body: Callable[[Sequence[View]], T]
    begun: bool = False
    error: BaseException | None = None
    value: list[T] = field(default_factory=list[T])

    def take(self, views: Sequence[View]) -> None:
        """Call the body, unless it has been; keep whatever comes of it."""
        if self.begun:
            return
        self.begun = True
        try:
            self.value.append(self.body(views))
        except BaseException as error:  # noqa: BLE001  raised again by `result`
            self.error = error

    def result(self) -> T:
        """What came of it."""
        self.take([])
        if self.error is not None:
            raise self.error
        return self.value[0]


@dataclass(frozen=True)
class Ending:
    """How something ended, in Prefect's words: `type` is the name of one of its states."""

    type: str
    message: str
    name: str | None = None

    @property
    def words(self) -> str:
        return f"{(self.name or self.type).lower()}, {self.message}"

    def state(self) -> Any:
        """The state, as of now: Prefect orders states by their time."""
        from prefect import states

        return getattr(states, self.type)(message=self.message, **({"name": self.name} if self.name else {}))

    @classmethod
    def of(cls, error: BaseException | None, reason: str) -> "Ending":
        """How a flow ends whose body ended so."""
        if error is None:
            return cls("Completed", reason)
        return cls("Failed", str(error)) if isinstance(error, Exception) else cls("Cancelled", reason)


@dataclass
class Ticket:
    """What the task of a stage waits for: words to log, and how the stage ended."""

    title: str
    verb: str
    log: Callable[[Sequence[str]], None]
    said: "SimpleQueue[str | Ending]" = field(default_factory=SimpleQueue)
    task_run: UUID | None = None
    state: Any = None
    """Prefect's last state of the stage, once it has ended."""


class StageTasks(View):
    """The stages of a run as task runs of a flow run: running while there is an attempt at them, then ended as they did."""

    def __init__(self, run: RunFolder, warn: Callable[[str], None]) -> None:
        self.run = run
        self.warn = warn
        self.flow_run: UUID | None = None
        self.reason = ""
        self.tickets: list[Ticket] = []
        self._open: dict[str, Ticket] = {}
        self._broken = False
        self._mute_until = 0.0
        self.deserted = False
        """The server did not answer when the run ended: nothing more is expected of it."""

    def opened(self, run: RunFolder, config: Config) -> None:
        try:
            crash_left_behind(run, but=self.flow_run)
        except Exception as error:  # noqa: BLE001  Prefect's boundary
            self.warn(f"Prefect may show earlier flow runs of this run as running, which are over: {_brief(error)}")

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None:
        shard = f"shard {stage.shard[0] + 1}/{stage.shard[1]}: " if stage.shard else ""
        self._say(stage, f"{shard}{'attached to ' if attached else ''}attempt {number}, job {record.get('job_id') or record.get('pid')}")

    def waiting(self, stage: Stage) -> None:
        self._say(stage, "another run is making it; waiting")

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None:
        if stage.shard:
            return
        what = f"{manifest.kind}, {manifest.rows} rows, digest {manifest.digest[:16]}"
        self._say(stage, Ending("Completed", f"published before: {what}", "Reused") if reused else Ending("Completed", what))

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None:
        self._say(stage, Ending("Failed", str(error)))

    def closed(self, reason: str) -> None:
        """Nothing more will be said of any stage: what has begun was stopped with the driver, or goes on without it."""
        self.reason = self.reason or reason
        for ticket in self._open.values():
            ticket.said.put(Ending("Cancelled", f"the driver let go of it: {reason}"))
        self._open.clear()

    def _say(self, stage: Stage, said: str | Ending) -> None:
        """Tell the task of a stage, which starts at the first word."""
        title = replace(stage, shard=None).title
        ticket = self._open.get(title) or self._start(title, stage.verb)
        if ticket:
            ticket.said.put(said)
        if isinstance(said, Ending):
            self._open.pop(title, None)

    def _start(self, title: str, verb: str) -> Ticket | None:
        if self._broken:
            return None
        try:
            ticket = Ticket(title, verb, self._log)
            ticket.task_run = task_of(verb).submit(title=title, ticket=ticket).task_run_id
        except Exception as error:  # noqa: BLE001  Prefect's boundary
            self._broken = True
            self.warn(f"Prefect shows no more of this run: {_brief(error)}")
            return None
        self.tickets.append(ticket)
        self._open[title] = ticket
        return ticket

    def _log(self, lines: Sequence[str]) -> None:
        """Show lines in the log of the task run that this is called in, unless its server did not take some a moment ago."""
        from datetime import UTC, datetime

        from prefect.context import TaskRunContext
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        if not lines or time.monotonic() < self._mute_until:
            return
        context: Any = TaskRunContext.get()
        context.client._client.timeout = 1.0  # a stage's end is not waited for: at most this line is missing in Prefect
        common = {"name": "ratchet", "level": logging.INFO, "timestamp": datetime.now(UTC).isoformat()}
        where = {"flow_run_id": str(context.task_run.flow_run_id), "task_run_id": str(context.task_run.id)}
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                context.client.create_logs([{**common, **where, "message": line} for line in lines])
        except Exception:  # noqa: BLE001  Prefect's boundary; the ledger has all this
            self._mute_until = time.monotonic() + 60

    def settle(self, url: str) -> None:
        """Wait until Prefect has recorded how every stage ended; what it lost on the way it is told again."""
        from prefect.client.orchestration import get_client

        if self.deserted or not answers(url, timeout_s=1.0):
            raise ConnectionError("its server does not answer any more")
        deadline = time.monotonic() + RECORDS_S
        send_events(RECORDS_S)
        if self.flow_run is None:
            return
        with get_client(sync_client=True) as client:
            while (lost := self._unrecorded(client)) and time.monotonic() < deadline:
                time.sleep(0.1)
            for ticket in lost:
                record(client, self.flow_run, ticket)
            self._show_rounds(client)

    def _show_rounds(self, client: Any) -> None:
        """The table that the run ends with, as an artifact of the flow run."""
        from prefect.client.schemas.actions import ArtifactCreate

        if not self.run.exists():  # it ended before it had begun
            return
        summary = summary_of(self.run)
        columns = rounds_columns(summary.rounds, headline_of(summary.config))
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        if rows:
            key = re.sub(r"[^a-z0-9]+", "-", f"rounds of {self.run.name}".lower()).strip("-")
            client.create_artifact(ArtifactCreate(key=key, type="table", data=json.dumps(rows), flow_run_id=self.flow_run, task_run_id=None))

    def _unrecorded(self, client: Any) -> list[Ticket]:
        assert self.flow_run is not None
        over = {found.id for found in task_runs(client, self.flow_run) if is_over(found)}
        return [ticket for ticket in self.tickets if ticket.task_run not in over and ticket.state is not None]


@cache
def task_of(verb: str) -> Any:
    """Prefect's task for a verb."""
    from prefect import task
    from prefect.cache_policies import NO_CACHE

    return task(name=verb, task_run_name="{title}", cache_policy=NO_CACHE, persist_result=False, retries=0)(_until_ended)


def _until_ended(title: str, ticket: Ticket) -> Any:
    """The body of a stage's task: waits for what is said, logs it, and ends as the stage did."""
    while True:
        words = [ticket.said.get()]
        while not ticket.said.empty():
            words.append(ticket.said.get())
        ticket.log([f"{title}: {word if isinstance(word, str) else word.words}" for word in words])
        for ending in (word for word in words if isinstance(word, Ending)):
            ticket.state = ending.state()
            return ticket.state


def _observe(run: RunFolder, config: Config, url: str, turn: Turn[Any], warn: Callable[[str], None]) -> None:
    """Take the turn inside a flow run; return when Prefect has it all."""
    with ExitStack() as stack:
        stack.enter_context(_environment(run, url))
        _import_prefect()
        from prefect import flow, tags
        from prefect.context import FlowRunContext, TagsContext
        from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
        from prefect.task_runners import ThreadPoolTaskRunner

        stack.callback(send_events, 1.0)
        tasks = StageTasks(run, warn)
        on_sigterm = signal.getsignal(signal.SIGTERM)

        def rounds(config: Config) -> Any:
            context: Any = FlowRunContext.get()
            tasks.flow_run = context.flow_run.id
            # Tags are for the flow run: for each tag of a task run, Prefect asks the server about concurrency limits.
            with TagsContext(current_tags=set()), _sigterm(on_sigterm):
                turn.take([tasks])
                tasks.closed("the driver ended")
            if not answers(url, timeout_s=1.5):
                stack.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}))
                context.client._client.timeout = 0.5  # the flow's last word is not waited for either
                tasks.deserted = True
            return Ending.of(turn.error, tasks.reason).state()

        stack.enter_context(temporary_settings(_settings(url)))
        stack.enter_context(tags("ratchet", *_tags(run)))
        runner: Any = ThreadPoolTaskRunner()
        options: Any = {"flow_run_name": lambda: run.name, "validate_parameters": False, "persist_result": False, "retries": 0}
        shown: Any = flow(name=config["recipe"]["name"], task_runner=runner, **options)(rounds)(config, return_state=True)
        tasks.settle(url)
        if shown.type.value != Ending.of(turn.error, "").type.upper():
            raise RuntimeError(f"it shows the flow as {shown.type.value}: {shown.message}")


@contextmanager
def _environment(run: RunFolder, url: str) -> Iterator[None]:
    """Prefect's settings as it reads them when it is imported; afterwards the environment is the user's again."""
    values = {name: value for name, value in QUIET.items() if name not in os.environ}
    if not os.environ.get("PREFECT_API_URL"):
        no_proxy = [part for part in (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1") if part]
        values |= {"PREFECT_API_URL": url, "PREFECT_HOME": str(view_folder(run.root) / "prefect"), "NO_PROXY": ",".join(no_proxy)}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _import_prefect() -> None:
    """Import Prefect without letting it take over the logging of the whole process, unless the user set its level."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with without_collecting():
        import prefect.flow_engine
        import prefect.main
        import prefect.task_engine  # noqa: F401
    if os.environ["PREFECT_LOGGING_LEVEL"] == QUIET["PREFECT_LOGGING_LEVEL"]:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("EventsWorker").setLevel(logging.CRITICAL)


def _settings(url: str) -> dict[Any, Any]:
    """What the environment cannot say, and what it said too late to a Prefect that was imported before."""
    from prefect.events.clients import PrefectEventsClient
    from prefect.events.worker import EventsWorker, emit_events_to_cloud
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

    if not emit_events_to_cloud():
        # With the 10 attempts per event that are usual, a process would wait minutes at its exit for a server that is gone.
        EventsWorker.set_client_override(PrefectEventsClient, api_url=url, reconnection_attempts=1)
    # Joining the heartbeat's thread costs a second at the end of each flow; setting the variable brings it back.
    heartbeat = {} if "PREFECT_FLOWS_HEARTBEAT_FREQUENCY" in os.environ else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    return {PREFECT_API_URL: url, **heartbeat}


def send_events(timeout_s: float) -> None:
    """Send the events that wait to be sent, and give up after a while: at the process's exit Prefect itself would wait for ever."""
    from prefect.events.worker import EventsWorker

    workers: list[Any] = [worker for worker in list(EventsWorker._instances.values()) if isinstance(worker, EventsWorker)]
    tasks = [(worker._loop, worker._task) for worker in workers]
    EventsWorker.drain_all(timeout=timeout_s)
    for loop, task in tasks:
        if loop and task and not task.done():
            loop.call_soon_threadsafe(task.cancel)


@contextmanager
def _sigterm(handler: Any) -> Iterator[None]:
    """Answer SIGTERM as the command line does, from which Prefect's engine took it over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    engines = signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, engines)


def _tags(run: RunFolder) -> list[str]:
    """What tells the flow runs of this run from all others on a server, even one that several machines share."""
    where = "" if is_network(run.root) else f"{socket.gethostname()}:"
    return [f"run:{run.name}", f"root:{where}{run.root}"]


def crash_left_behind(run: RunFolder, *, but: UUID | None) -> None:
    """Mark what drivers before this one left as running; the caller holds the run, so none of them lives."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        mine = FlowRunFilter.model_validate({"tags": {"all_": _tags(run)}, "state": {"type": {"any_": NOT_OVER}}})
        for left in client.read_flow_runs(flow_run_filter=mine, sort=FlowRunSort.ID_DESC, limit=PAGE):
            if left.id == but:
                continue
            for task_run in task_runs(client, left.id):
                if not is_over(task_run):
                    client.set_task_run_state(task_run.id, Crashed(message="its driver died"), force=True)
            client.set_flow_run_state(left.id, Crashed(message=f"its driver died; the run goes on in flow run {but}"), force=True)


def task_runs(client: Any, flow_run: UUID) -> Iterator[Any]:
    """All task runs of a flow run."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import TaskRunSort

    chosen: Any = {"flow_run_filter": FlowRunFilter.model_validate({"id": {"any_": [flow_run]}}), "sort": TaskRunSort.ID_DESC, "limit": PAGE}
    offset = 0
    while page := client.read_task_runs(**chosen, offset=offset):
        yield from page
        offset += PAGE


def is_over(task_run: Any) -> bool:
    """Whether Prefect has a task run in a last state."""
    return task_run.state is not None and bool(task_run.state.is_final())


def record(client: Any, flow_run: UUID, ticket: Ticket) -> None:
    """Tell Prefect how a stage ended, when the event that should have told it was lost."""
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_task_run(ticket.task_run)
    except ObjectNotFound:
        client.create_task_run(task_of(ticket.verb), flow_run, str(ticket.task_run), id=ticket.task_run, name=ticket.title)
    client.set_task_run_state(ticket.task_run, ticket.state, force=True)


def _brief(error: Exception) -> str:
    """An error of Prefect's in one line."""
    first = (str(error).strip() or "without a word").splitlines()[0]
    return f"{type(error).__name__}: {first[:200]}"
