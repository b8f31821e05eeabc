"""A run's ledger written into MLflow, whatever is there already.

    parent run   one per line of rounds (`history.py`): params, config.yaml, every metric with step = round, curves.png
    └── child    one per ended round: the same params and metrics, the training curve by optimizer step, samples.json, decision.json,
                 the data sets it learned from and was measured on, its policy as a logged model
    registered   the champion and the ones before it as versions of a registered model (`registry.py`)

Runs are found again by their tags, never by name: `ratchet.key` (the run, wherever its root is), with `ratchet.line` a parent, with
`ratchet.event` a child. Every point has the time of the ledger's event, so writing it twice leaves one. What MLflow cannot write
twice (inputs, outputs, models) is looked up first; `ratchet.complete` on a child and `ratchet.ledger` on a parent, the number of the
last event that is in, are written last and only save work.

MLflow cannot delete a point. So where a round ends anew in another state, the parent it was on is kept as superseded and a new parent
takes over: it gets the points of the rounds that still count, and their children.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratchet.artifacts import Opened
from ratchet.champions import BY, headline_of
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, digest
from ratchet.infra import notes
from ratchet.infra.figures import curves
from ratchet.infra.history import EndedRound, History, Line, Step
from ratchet.infra.registry import Promotion, register
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.records import Rollout, read_rows
from ratchet.stages import CELLS

KEY, NAME, LINE, EVENT, ROUND, STATE = (f"ratchet.{name}" for name in ("key", "run", "line", "event", "round", "state"))
LEDGER, COMPLETE = "ratchet.ledger", "ratchet.complete"
NOTE = "mlflow.note.content"
"""What MLflow shows as a run's description."""

CURVE, SAMPLES, DECISION, CONFIG, FIGURE = "curve.jsonl", "samples.json", "decision.json", "config.yaml", "curves.png"
PICTURES = "report"

PER_CALL, PARAMS_PER_CALL, PAGE = 1000, 100, 1000
PARAM_LENGTH = 500
"""What servers of every age take; the whole value stands in config.yaml."""
CURVE_STEPS = 1000
"""A longer training curve is thinned to about so many steps."""
SAMPLED_PROBLEMS, SAMPLES_EACH, TEXT_LENGTH = 24, 2, 4000

COLOURS = ("#1b6ca8", "#c8553d", "#2d936c", "#7d4f9e", "#b8860b", "#d1478d", "#3f4e5f", "#5b8c00", "#00838f", "#8d5b3e")
"""Of a run's curve, where MLflow's own choice is often the same for two."""

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What an ingest left in MLflow."""

    run_id: str
    """The parent that counts."""
    experiment_id: str
    rounds: int
    """Rounds of the run that MLflow shows."""
    written: int
    """Rounds that had not been complete there."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One ingest of one run."""

    client: Any
    experiment_id: str
    run: RunFolder
    store: Store
    history: History
    served: bool
    """Whether MLflow is a tracking server, which takes no paths of this machine."""
    driven: bool
    """Whether a driver is at it: without an end in its ledger the run is then under way, and else it was killed."""
    _missing: list[str] = field(default_factory=list[str])
    _children: dict[int, str] = field(default_factory=dict[int, str])
    """The number of the event that ended a round → its run in MLflow."""

    @property
    def key(self) -> str:
        """The run's identity: its first event, which is never written again, wherever the root is moved."""
        return digest(self.history.opening)

    def bring_up_to_date(self) -> Ingested:
        there = self._there()
        written, parent, parents = 0, "", []
        for line in self.history.lines:
            found = self._parent(line, there.get((LINE, str(line.number))))
            parent = found.info.run_id
            for index in sorted(line.rounds):
                ended = line.rounds[index]
                if self.history.owner(ended) is line:
                    written += self._child(ended, line, parent, there.get((EVENT, str(ended.number))))
            self._fill(line, found)
            parents.append((line, found))
        for line, found in parents:  # whose rounds may be those of a later line
            self._describe(line, found)
        register(self.client, self.key, self.run.name, list(self._promotions()))
        return Ingested(run_id=parent, experiment_id=self.experiment_id, rounds=len(line.rounds), written=written)

    def _promotions(self) -> Iterator[Promotion]:
        """The champions of the line that counts, and what somebody promoted to a model of another name."""
        rounds = self.history.lines[-1].rounds
        for crowning in self.history.crownings():
            yield self._promotion(None, rounds[crowning.round], number=crowning.number, at=crowning.at, by=crowning.by)
        for event in self.history.promoted:
            if event["model"] and (ended := self.history.ended_in(event["state"])):
                yield self._promotion(event["model"], ended, number=event["number"], at=event["at"], by="hand")

    def _promotion(self, model: str | None, ended: EndedRound, *, number: int, at: float, by: str) -> Promotion:
        run_id = self._children[ended.number]
        main = next((name for name in headline_of(self.history.config) if name in ended.event["metrics"]), None)
        measured = f": {main} {ended.event['metrics'][main]:.4g}" if main else ""
        return Promotion(
            model=model,
            run_id=run_id,
            source=None if self.served and not self.store.runs else self.store.address(ended.policy["identity"]),
            model_id=lambda: self._model(ended, run_id),
            digest=ended.policy["digest"],
            number=number,
            at=at,
            words=f"round {ended.index} of {self.run.name}{measured}, {BY[by]}",
        )

    def _there(self) -> dict[tuple[str, str], Any]:
        """What MLflow has of this run: parents by line, children by event."""
        found: dict[tuple[str, str], Any] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{self.key}'", max_results=PAGE, page_token=token)
            for run in page:
                kind = EVENT if EVENT in run.data.tags else LINE
                found.setdefault((kind, run.data.tags.get(kind, "")), run)
            token = page.token
            if not token:
                return found

    def _parent(self, line: Line, found: Any) -> Any:
        """A line's run, created if it is not there, and open while it is written to."""
        opening, superseded = self.history.opening, line.replaced_at is not None
        tags = {
            KEY: self.key,
            NAME: self.run.name,
            LINE: str(line.number),
            "ratchet.recipe": opening["config"]["recipe"]["name"],
            "ratchet.science": opening["science"],
            "ratchet.root": str(self.run.root),
            "ratchet.superseded": str(superseded).lower(),
            "ratchet.reason": self.history.reason[:TEXT_LENGTH],
            "mlflow.runColor": COLOURS[int(self.key[:8], 16) % len(COLOURS)],
        }
        if forked := self.history.forked:  # a tag and no parent: MLflow would fold away what is to be compared
            tags |= {"ratchet.forked_from": forked["run"], "ratchet.forked_round": str(forked["round"]), "ratchet.forked_key": forked["key"]}
        name = f"{self.run.name} (superseded {line.number + 1})" if superseded else self.run.name
        found = self._run(found, name, tags, opening["at"])
        if line.replaced_at is None and self.history.status == "open" and self.driven and found.info.status != "RUNNING":
            self.client.update_run(found.info.run_id, status="RUNNING")
        return found

    def _run(self, found: Any, name: str, tags: Mapping[str, str], began: float) -> Any:
        """The run of these tags: created with them, or brought to have them."""
        if found is None:
            return self.client.create_run(self.experiment_id, start_time=_ms(began), tags=dict(tags), run_name=name)
        if changed := {key: value for key, value in tags.items() if found.data.tags.get(key) != value}:
            self._log(found.info.run_id, tags=changed)
        if found.info.run_name != name:
            self.client.update_run(found.info.run_id, name=name)
        return found

    def _fill(self, line: Line, found: Any) -> None:
        """Bring a parent to the ledger's end: points, config, figure, status; the cursor last."""
        run_id, history = found.info.run_id, self.history
        cursor = int(found.data.tags.get(LEDGER, 0))
        fresh = [ended for ended in line.rounds.values() if ended.number > cursor]
        if not cursor:
            self._log(run_id, params=_params(history.opening["config"]))
        if history.configured > cursor:
            self.client.log_dict(run_id, dict(history.config), CONFIG)
        self._log(run_id, metrics=[point for ended in fresh for point in _points(ended)])
        if fresh:
            points = {index: ended.metrics() for index, ended in line.rounds.items()}
            self.client.log_figure(run_id, curves(points, self.run.name), FIGURE)
        self._end(found, line)
        if cursor != history.last["number"]:
            self._log(run_id, tags={LEDGER: str(history.last["number"])})

    def _describe(self, line: Line, found: Any) -> None:
        """What the page of the run says first."""
        run_id = found.info.run_id
        pages = {ended.number: f"#/experiments/{self.experiment_id}/runs/{self._children[ended.number]}" for ended in line.rounds.values()}
        figure = f"get-artifact?path={FIGURE}&run_uuid={run_id}" if line.rounds else None
        text = notes.of_run(self.history, line, pages, figure, f"ratchet show {self.run.name} --root {self.run.root}")
        if found.data.tags.get(NOTE) != text:
            self._log(run_id, tags={NOTE: text})

    def _end(self, found: Any, line: Line) -> None:
        status, at = STATUS.get(self.history.status, "KILLED"), self.history.last["at"]
        if line.replaced_at is not None:
            status, at = "KILLED", line.replaced_at
        elif self.history.status == "open" and self.driven:
            return
        if found.info.status != status or found.info.end_time != _ms(at):
            self.client.set_terminated(found.info.run_id, status, _ms(at))

    def _child(self, ended: EndedRound, line: Line, parent: str, found: Any) -> bool:
        """A round's run; True if it had not been complete."""
        tags = {
            KEY: self.key,
            NAME: self.run.name,
            EVENT: str(ended.number),
            ROUND: str(ended.index),
            STATE: ended.event["state"],
            "ratchet.report": ended.event["report"],
            "ratchet.policy": ended.policy["identity"],
            "ratchet.note": ended.event["note"][:TEXT_LENGTH],
            "ratchet.superseded": str(line.replaced_at is not None).lower(),
            "ratchet.retried": str(self.history.times_retried(ended)),
            "mlflow.parentRunId": parent,
            **({NOTE: text} if (text := notes.of_round(ended)[:TEXT_LENGTH]) else {}),
        }
        found = self._run(found, f"round {ended.index} · {self.run.name}", tags, ended.began)
        self._children[ended.number] = found.info.run_id
        said = found.data.tags.get(COMPLETE, "no")
        if said == "yes" or (said.startswith("without ") and not any(self._has(name) for name in said.split()[1:])):
            return False
        self._missing.clear()
        self._write(ended, found.info.run_id)
        self.client.set_terminated(found.info.run_id, "FINISHED", _ms(ended.event["at"]))
        self._log(found.info.run_id, tags={COMPLETE: " ".join(["without", *self._missing[:100]]) if self._missing else "yes"})
        return True

    def _write(self, ended: EndedRound, run_id: str) -> None:
        """All that a round's run shows."""
        tables = {SAMPLES: list(self._samples(ended)), DECISION: self._decision(ended)}
        for name, rows in tables.items():
            if rows:
                self.client.log_text(run_id, table(rows), name)
        shown = [{"path": name, "type": "table"} for name, rows in tables.items() if rows]
        self._pictures(ended, run_id)
        model_id, measured = self._model(ended, run_id), self._measured(ended)
        self._log(
            run_id,
            params=_params(self.history.config_of(ended.index)),
            metrics=[*_points(ended, model_id=model_id, on=measured), *self._curve(ended)],
            tags={"mlflow.loggedArtifacts": json.dumps(shown)},
        )
        self._inputs(ended, run_id)

    def _pictures(self, ended: EndedRound, run_id: str) -> None:
        """What the report drew, such as trajectories on a floor plan."""
        opened = self._open(ended.report.stage["identity"]) if ended.report else None
        for name in sorted(opened.manifest.files if opened else ()):
            if opened and name.endswith(".png"):
                self.client.log_artifact(run_id, str(opened.folder / name), PICTURES)

    def _log(self, run_id: str, *, params: Mapping[str, str] | None = None, metrics: Sequence[Any] = (), tags: Row | None = None) -> None:
        from mlflow.entities import Param, RunTag

        for some in _batches(metrics, PER_CALL):
            self.client.log_batch(run_id, metrics=some)
        for some in _batches([Param(key, value) for key, value in (params or {}).items()], PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=some)
        if tags:
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _model(self, ended: EndedRound, run_id: str) -> str:
        """The round's policy as a logged model whose files stay in the store; it is this run's output."""
        from mlflow.entities import LoggedModelOutput

        found = self.client.search_logged_models([self.experiment_id], f"source_run_id = '{run_id}'")
        model = found[0] if found else self._create_model(ended, run_id)
        if str(model.status) != "READY":
            self.client.finalize_logged_model(model.model_id, "READY")
        outputs = self.client.get_run(run_id).outputs
        if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=ended.index)])
        return str(model.model_id)

    def _create_model(self, ended: EndedRound, run_id: str) -> Any:
        training, policy = ended.training, ended.policy
        lineage = {
            "artifact": policy["identity"],
            "digest": policy["digest"],
            "uri": self.store.address(policy["identity"]),
            "made_by": training.verb if training else "an earlier round",
            "parent_policy_digest": training.inputs.get("policy") if training else None,
            "data_digest": training.inputs.get("examples") if training else None,
            "round": ended.index,
            "state": ended.event["state"],
        }
        return self.client.create_logged_model(
            self.experiment_id,
            name=re.sub(r"[/:.%\"']", "-", f"{self.run.name}-round-{ended.index}"),
            source_run_id=run_id,
            tags={KEY: self.key, NAME: self.run.name, "ratchet.policy": policy["identity"], "mlflow.model.isExternal": "true"},
            params={name: str(value) for name, value in lineage.items() if value is not None},
            model_type="policy",
        )

    def _inputs(self, ended: EndedRound, run_id: str) -> None:
        """The data sets by digest: MLflow keeps one entry for each, whoever reads it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        examples = ended.maker(ended.training.inputs.get("examples")) if ended.training else None
        given = [(examples, "training"), (self._measured(ended), "evaluation")]
        self.client.log_inputs(
            run_id,
            [
                DatasetInput(
                    Dataset(
                        name=_kind(step),
                        digest=step.published["digest"],
                        source_type="s3" if self.store.runs else "local",
                        source=json.dumps({"uri": self.store.address(step.stage["identity"])}),
                        profile=json.dumps({"num_rows": step.published["rows"]}),
                    ),
                    tags=[InputTag("mlflow.data.context", context)],
                )
                for step, context in given
                if step
            ],
        )

    def _measured(self, ended: EndedRound) -> Step | None:
        """The problems that the round's report is about."""
        step = ended.report
        for name in ("greedy", "rollouts", "problems"):
            step = ended.maker(step.inputs.get(name)) if step else None
        return step

    def _has(self, identity: str) -> bool:
        """Whether an artifact is in the store, whole as far as its manifest tells; one that was set aside or deleted is not."""
        try:
            return self.store.find(identity) is not None
        except CorruptArtifact:
            return False

    def _open(self, identity: str) -> Opened | None:
        if self._has(identity):
            try:
                return self.store.open(identity)
            except CorruptArtifact:  # the driver that needs it will say so
                pass
        self._missing.append(identity)
        return None

    def _curve(self, ended: EndedRound) -> Iterator[Any]:
        """The training of the round's policy by optimizer step; its file is read without verifying the weights beside it."""
        from mlflow.entities import Metric

        step = ended.training
        if step is None:
            return
        if not self._has(step.stage["identity"]):
            self._missing.append(step.stage["identity"])
            return
        path = self.store.file(step.stage["identity"], CURVE)
        rows = [row for _, row in read_rows(path)] if path else []
        for row in rows[:: math.ceil(len(rows) / CURVE_STEPS) or 1]:
            for name, value in row.items():
                if name != "step":
                    yield Metric(f"curve/{name}", float(value), _ms(step.published["at"]), int(row["step"]))

    def _samples(self, ended: EndedRound) -> Iterator[Row]:
        """Some of the rollouts that the round was measured by: of evenly spread problems the greedy one and a few sampled ones."""
        for drawn, given in (ended.report.inputs if ended.report else {}).items():
            step = ended.maker(given)
            opened = self._open(step.stage["identity"]) if step else None
            if opened is None or opened.manifest.kind != "rollouts":
                continue
            rollouts = [row for row in opened.records() if isinstance(row, Rollout)]
            problems = list(dict.fromkeys(rollout.problem_id for rollout in rollouts))
            chosen = set(problems[:: math.ceil(len(problems) / SAMPLED_PROBLEMS) or 1])
            for rollout in rollouts:
                if rollout.problem_id in chosen and rollout.sample < SAMPLES_EACH:
                    judged = {name: getattr(rollout, name) for name in ("outcome", "reward")}
                    texts = {name: _cut(getattr(rollout, name)) for name in ("answer", "reference", "prompt", "completion")}
                    yield {"problem": rollout.problem_id, "drawn": drawn, **judged, **texts, "tokens": rollout.tokens}

    def _decision(self, ended: EndedRound) -> Sequence[Row]:
        """Every cell of the grid that the controller decided on."""
        step = ended.own("adjust")
        opened = self._open(step.stage["identity"]) if step else None
        return [row for _, row in read_rows(opened.folder / CELLS)] if opened else []


def table(rows: Sequence[Row]) -> str:
    """Rows as MLflow's page shows a table. (Its own `log_table` appends to what is there.)"""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return json.dumps({"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}, ensure_ascii=False)


def _points(ended: EndedRound, *, model_id: str | None = None, on: Step | None = None) -> list[Any]:
    """A round's metrics at step = round; those that were measured on a data set are linked to it and to the policy."""
    from mlflow.entities import Metric

    at = _ms(ended.event["at"])
    found = []
    for name, value in sorted(ended.metrics().items()):
        links: dict[str, Any] = {}
        if model_id:
            links["model_id"] = model_id
            if on and name in ended.event["metrics"]:
                links |= {"dataset_name": _kind(on), "dataset_digest": on.published["digest"]}
        found.append(Metric(_allowed(name), value, at, ended.index, **links))
    return found


def _kind(step: Step) -> str:
    """What a data set is called: `test problems`, `demonstrations`."""
    if step.verb == "propose":
        return f"{step.stage['essence']['component']['fields'].get('split', 'all')} problems"
    return f"{step.purpose} demonstrations".strip()


def _params(config: Mapping[str, Any]) -> dict[str, str]:
    """A config, flat: `training.steps` → `80`."""
    found: dict[str, str] = {}
    for name, value in _flat(config, ""):
        text = value if isinstance(value, str) else canonical(value).decode()
        found[_allowed(name)[:250]] = _cut(text, PARAM_LENGTH) or '""'
    return found


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _allowed(name: str) -> str:
    """A key as MLflow takes it."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)


def _cut(text: str | None, length: int = TEXT_LENGTH) -> str | None:
    return text if text is None or len(text) <= length else text[: length - 1] + "…"


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
