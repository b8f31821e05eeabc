"""Schedules as Prefect sees them: a deployment each, whose flow runs are the firings, and the automations that look after these.

Everything here is made from the schedules' files and made again when it is missing, so that a Prefect that was wiped loses nothing.
What is Prefect's is told by a tag of the root, so that the projects on a team's server leave each other's alone.

Two automations bring back a firing whose process died: one finds that its heartbeat stopped and marks it Crashed, the other schedules
again what Crashed. How often is bounded by the firing's own record, since an automation cannot count.
"""

import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from ratchet.errors import InputError
from ratchet.flows.prefect_flow import QUIET
from ratchet.flows.prefect_server import answers
from ratchet.flows.schedules import Schedule
from ratchet.identity import digest
from ratchet.infra.views import is_network, view_folder

Json = dict[str, Any]

LOST_S = "RATCHET_LOST_S"
"""Environment variable: after how many seconds without a heartbeat a firing counts as dead (default 90, at least 10)."""

FIRED_AHEAD = 200
"""How many due firings are asked for at a time."""

NAMES = str.maketrans("/%&<>", "⁄％＆＜＞")
"""Prefect takes no such characters in a name; these look like them."""

WORD = r"^[+~]{0,2}[A-Za-z_][\w.@-]*=.*|^~[A-Za-z_].*"


def lost_s() -> float:
    return max(10.0, float(os.environ.get(LOST_S, "90")))


class Refused(Exception):
    """Prefect answered, and not with what was asked for."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"Prefect answered {status}: {text[:300]}")
        self.status = status


@dataclass
class Office:
    """A Prefect server, as far as the schedules of one root go."""

    root: Path
    client: Any
    url: str
    """Of its API."""
    pool: str | None = None
    deployments: dict[str, str] = field(default_factory=dict[str, str])
    """Schedule → the id of its deployment."""
    paused: set[str] = field(default_factory=set[str])
    """Schedules that somebody paused on Prefect's page."""

    @property
    def tag(self) -> str:
        """What tells this root's deployments and flow runs from all others on a server."""
        where = "" if is_network(self.root) else f"{socket.gethostname()}:"
        return f"schedules:{where}{self.root}"

    def ask(self, method: str, path: str, body: Any = None, *, absent: Any = ...) -> Any:
        """What the API answers; `absent` instead if there is no such thing."""
        import httpx

        try:
            response = self.client.request(method, path, **({} if body is None else {"json": body}))
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (404, 410) and absent is not ...:
                return absent
            raise Refused(error.response.status_code, error.response.text) from None
        return response.json() if response.content else None

    def publish(self, schedules: Sequence[Schedule]) -> list[str]:
        """Make Prefect's deployments and automations what the schedules say; returns what could not be, in words."""
        if self.pool:
            self._make_pool()
        flow = self.ask("POST", "/flows/", {"name": f"ratchet {self.tag.partition(':')[2]}".translate(NAMES), "tags": ["ratchet"]})["id"]
        there = {one["name"]: one for one in self._pages("/deployments/filter", {"deployments": {"tags": {"all_": [self.tag]}}})}
        for name in there.keys() - {schedule.name.translate(NAMES) for schedule in schedules}:
            self.ask("DELETE", f"/deployments/{there[name]['id']}", absent=None)
        self.deployments = {schedule.name: self._deploy(schedule, flow, there.get(schedule.name.translate(NAMES))) for schedule in schedules}
        self.paused = {one.name for one in schedules if _is_paused(there.get(one.name.translate(NAMES)))}
        self._automate(self._recovery())
        blocks = [(one.name, block) for one in schedules for block in (one.on_failure, one.on_finish) if block]
        return [f"{name}: Prefect has no block {block}, so nobody is told" for name, block in blocks if self.block(block) is None]

    def _deploy(self, schedule: Schedule, flow: str, there: Json | None) -> str:
        """The id of a schedule's deployment, made anew only if it is not what it should be: that would drop what it has scheduled."""
        wanted = {"flow_id": flow, **deployment(schedule, self.tag), **({"work_pool_name": self.pool} if self.pool else {})}
        version = digest(wanted)[:12]
        if there and there["version"] == version and there.get("work_pool_name") == self.pool:
            return str(there["id"])
        return str(self.ask("POST", "/deployments/", {**wanted, "version": version})["id"])

    def _make_pool(self) -> None:
        """The work pool of a team's server, and this process as one that works for it."""
        if self.ask("GET", f"/work_pools/{self.pool}", absent=None) is None:
            self.ask("POST", "/work_pools/", {"name": self.pool, "type": "ratchet", "description": "firings of `ratchet schedule`"})
        self.ask(
            "POST", f"/work_pools/{self.pool}/workers/heartbeat", {"name": f"{socket.gethostname()}:{self.root}", "heartbeat_interval_seconds": 30}
        )

    def due(self, moment: datetime) -> list[Json]:
        """The firings that are due by a moment and wait to begin, first come first."""
        if not self.deployments:
            return []
        found = self._due(list(self.deployments.values()), moment)
        if len(found) < FIRED_AHEAD:
            return found
        return [one for id in self.deployments.values() for one in self._due([id], moment)]  # a long queue of one hides no other's

    def _due(self, ids: list[str], moment: datetime) -> list[Json]:
        body = {"deployment_ids": ids, "scheduled_before": moment.isoformat(), "limit": FIRED_AHEAD}
        return list(self.ask("POST", "/deployments/get_scheduled_flow_runs", body))

    def add(self, schedule: str, due: datetime, words: Sequence[str] | None, key: str) -> str:
        """The id of a flow run for a firing that Prefect does not have; with the same key always the same one."""
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
        parameters = {} if words is None else {"overrides": list(words)}
        body = {"state": state, "idempotency_key": key, "parameters": parameters}
        return str(self.ask("POST", f"/deployments/{self.deployments[schedule]}/create_flow_run", body)["id"])

    def flow_run(self, id: str) -> Json | None:
        """A flow run; None if Prefect does not know it, or not any more."""
        found: Json | None = self.ask("GET", f"/flow_runs/{id}", absent=None)
        return found

    def page(self, id: str) -> str:
        """The address of a flow run's page."""
        from prefect.utilities.urls import url_for

        return url_for("flow-run", obj_id=id) or ""

    def name(self, id: str, name: str) -> None:
        self.ask("PATCH", f"/flow_runs/{id}", {"name": name}, absent=None)

    def propose(self, id: str, type: str) -> tuple[bool, Json]:
        """Whether Prefect's rules let a flow run into a state, and the state that it is in then."""
        answer = self.ask("POST", f"/flow_runs/{id}/set_state", {"state": {"type": type, "name": type.capitalize()}}, absent={})
        return answer.get("status") == "ACCEPT", dict(answer.get("state") or {})

    def set(self, id: str, type: str, *, name: str | None = None, message: str = "", at: datetime | None = None) -> None:
        """Say which state a flow run is in, which is not for Prefect's rules to decide."""
        details = {"scheduled_time": (at or datetime.now(UTC)).isoformat()} if type == "SCHEDULED" else {}
        state = {"type": type, "name": name or type.capitalize(), "message": message, "state_details": details}
        self.ask("POST", f"/flow_runs/{id}/set_state", {"state": state, "force": True}, absent={})

    def log(self, id: str, text: str) -> None:
        """Show lines with a flow run."""
        common = {"name": "ratchet", "level": 20, "flow_run_id": id, "timestamp": datetime.now(UTC).isoformat()}
        self.ask("POST", "/logs/", [{**common, "message": text[:20_000]}])

    def beat(self, ids: Iterable[str]) -> None:
        """Say of flow runs that they live."""
        related = [{"prefect.resource.id": f"prefect.tag.{self.tag}", "prefect.resource.role": "tag"}]
        now = datetime.now(UTC).isoformat()
        common = {"event": "prefect.flow-run.heartbeat", "occurred": now, "related": related, "payload": {}}
        events = [{**common, "id": str(uuid4()), "resource": {"prefect.resource.id": f"prefect.flow-run.{id}"}} for id in ids]
        if events:
            self.ask("POST", "/events", events)

    def renew(self, lease: str) -> None:
        """Keep a firing's place in its deployment's limit; one that a restarted server has forgotten is not missed."""
        self.ask("POST", f"/v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 300}, absent=None)

    def vacate(self, schedule: str) -> None:
        """Give back a place in a deployment's limit that nobody holds any more."""
        self.ask("PATCH", f"/v2/concurrency_limits/deployment:{self.deployments[schedule]}", {"active_slots": 0}, absent=None)

    def _recovery(self) -> list[Json]:
        mine = {"prefect.resource.id": f"prefect.tag.{self.tag}", "prefect.resource.role": "tag"}
        return [
            automation(
                f"ratchet: without a heartbeat it crashed ({self.tag})",
                {"posture": "Proactive", "after": ["prefect.flow-run.heartbeat"], "expect": ["prefect.flow-run.*"], "within": lost_s()},
                mine,
                {"type": "change-flow-run-state", "state": "CRASHED", "name": "Crashed", "message": f"no heartbeat for {lost_s():.0f} s"},
            ),
            automation(
                f"ratchet: what crashed goes on ({self.tag})",
                {"posture": "Reactive", "expect": ["prefect.flow-run.Crashed"], "within": 0},
                mine,
                {"type": "change-flow-run-state", "state": "SCHEDULED", "name": "AwaitingRetry", "message": "its process died; the run goes on"},
            ),
        ]

    def block(self, name: str) -> str | None:
        """The id of a block that can notify, by TYPE/NAME."""
        slug, _, called = name.partition("/")
        found = self.ask("GET", f"/block_types/slug/{slug}/block_documents/name/{called}", absent=None)
        if found is None or "notify" not in found["block_schema"]["capabilities"]:
            return None
        return str(found["id"])

    def _automate(self, wanted: Sequence[Json]) -> None:
        """Have these automations of this root, and no others."""
        ours = [one for one in self._pages("/automations/filter", {}) if one["name"].endswith(f"({self.tag})")]
        kept = {one["description"] for one in ours} & {one["description"] for one in wanted}
        for one in ours:
            if one["description"] not in kept:
                self.ask("DELETE", f"/automations/{one['id']}", absent=None)
        for one in wanted:
            if one["description"] not in kept:
                self.ask("POST", "/automations/", one)

    def _pages(self, path: str, body: Json) -> Iterator[Json]:
        offset = 0
        while page := self.ask("POST", path, {**body, "limit": 200, "offset": offset}):
            yield from page
            offset += len(page)


def _is_paused(deployment: Json | None) -> bool:
    return deployment is not None and (deployment["paused"] or not any(one["active"] for one in deployment["schedules"]))


def deployment(schedule: Schedule, tag: str) -> Json:
    """A schedule as a deployment; its one parameter is what the command line takes, and may be edited in Prefect's form."""
    if schedule.cron:
        when: Json = {"cron": schedule.cron, "timezone": schedule.tz, "day_or": True}
    else:
        when = {"interval": schedule.every_s, "anchor_date": schedule.since, "timezone": "UTC"}
    overrides = {
        "title": "Overrides",
        "description": "KEY=VALUE, as on the command line: `recipe=b_star`, `training.steps=80`. A wrong one fails the run and says what is right.",
        "type": "array",
        "items": {"type": "string", "pattern": WORD},
        "default": list(schedule.words),
        "position": 0,
    }
    makes = f"{schedule.continues} more rounds of the run {schedule.name}" if schedule.continues else f"a run {schedule.name}/<when it was due>"
    return {
        "name": schedule.name.translate(NAMES),
        "description": f"`ratchet schedule {schedule.name}`: {makes}. Overlap: {schedule.overlap}; missed: {schedule.missed}.",
        "tags": ["ratchet", tag],
        "schedules": [{"schedule": when, "active": True}],
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "CANCEL_NEW" if schedule.overlap == "skip" else "ENQUEUE"},
        "parameters": {"overrides": list(schedule.words)},
        "parameter_openapi_schema": {"title": "Parameters", "type": "object", "properties": {"overrides": overrides}, "required": []},
        "enforce_parameter_schema": True,
    }


def automation(name: str, trigger: Json, related: Json, action: Json) -> Json:
    """An automation; its description says what it is, exactly."""
    common = {"type": "event", "match": {"prefect.resource.id": "prefect.flow-run.*"}, "for_each": ["prefect.resource.id"], "threshold": 1}
    whole = {"name": name, "enabled": True, "trigger": {**common, "match_related": related, **trigger}, "actions": [action]}
    return {**whole, "description": f"made by `ratchet serve` ({digest(whole)[:12]})"}


def check_blocks(root: Path, schedule: Schedule) -> None:
    """Refuse blocks that a schedule names and Prefect does not have, if a server is there to be asked."""
    blocks = [block for block in (schedule.on_failure, schedule.on_finish) if block]
    url = os.environ.get("PREFECT_API_URL") or _managed(root)
    if not blocks or not url or not answers(url):
        return
    with office(root, url) as server:
        for block in blocks:
            if server.block(block) is None:
                raise InputError(
                    "Prefect has no such block, or it cannot notify", got=block, next=f"make it on the page {url.removesuffix('/api')}/blocks"
                )


def _managed(root: Path) -> str | None:
    try:
        return (view_folder(root) / "prefect" / "url").read_text()
    except FileNotFoundError:
        return None


@contextmanager
def office(root: Path, url: str, pool: str | None = None) -> Iterator[Office]:
    """Speak to the Prefect API at an address, by Prefect's own client: it knows of credentials, certificates and CSRF."""
    _import_prefect(root)
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    values = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 10}
    with temporary_settings(values), get_client(sync_client=True) as client:
        yield Office(root, client, url, pool)


def _import_prefect(root: Path) -> None:
    """Import Prefect with the settings of `prefect_flow`, and leave this process's environment, which runs inherit, as it was."""
    if "prefect.client.orchestration" in sys.modules:
        return
    before = dict(os.environ)
    own = {} if before.get("PREFECT_API_URL") else {"PREFECT_HOME": str(view_folder(root) / "prefect")}
    os.environ.update({**QUIET, **before, **own, "NO_PROXY": ",".join(filter(None, [before.get("NO_PROXY") or before.get("no_proxy"), "127.0.0.1"]))})
    try:
        import prefect.client.orchestration  # noqa: F401
    finally:
        os.environ.clear()
        os.environ.update(before)


def words_of(flow_run: Mapping[str, Any], schedule: Schedule) -> list[str]:
    """The KEY=VALUE that a flow run is to be made with, as edited in Prefect or not."""
    found = (flow_run.get("parameters") or {}).get("overrides", schedule.words)
    return [str(word) for word in (json.loads(found) if isinstance(found, str) else found)]
