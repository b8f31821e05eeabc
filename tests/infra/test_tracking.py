"""MLflow shows what the ledger says: once, from any state, and with no point that no longer counts."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import InputError
from ratchet.infra import tracking
from ratchet.infra.ledger import Event
from ratchet.infra.mlflow_server import ENVIRONMENT
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from ratchet.infra.tracking import MLflowTracker, TrackerAway
from tests.toys.drive import Warm, wait_until

NAME = "toy"


@pytest.fixture(scope="module", autouse=True)
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking server as a group has one, which stores the artifacts itself; it takes a while to come up."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/db"]
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "mlflow", "server", *options, "--artifacts-destination", str(folder / "files")]
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, stdout=log, stderr=log, start_new_session=True)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 9)
    process.wait()


@pytest.fixture
def server(server_url: str) -> str:
    wait_until(lambda: _answers(server_url), "the server", 90)
    return server_url


@pytest.fixture(scope="module")
def made(ratchet: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a finished run of two rounds, and an empty MLflow database, which takes seconds to make."""
    root = tmp_path_factory.mktemp("made", numbered=True)
    assert 0 == ratchet.run("recipe=b_star", "--name", NAME, root=root).code
    client_of(f"sqlite:///{root}/.ratchet/mlflow.db").search_experiments()
    return root


@pytest.fixture
def run(made: Path, root: Path) -> RunFolder:
    """A copy of that run, to do with as one likes."""
    shutil.copytree(made, root, dirs_exist_ok=True)
    return RunFolder(root, NAME)


def client_of(address: str) -> Any:
    tracking.prepare()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address)


def ingest(run: RunFolder, experiment: str = "ratchet", uri: str | None = None, **more: Any) -> Any:
    return MLflowTracker(uri=uri, experiment=experiment).ingest(run, LocalStore(state=run.state), **more)


class Shown:
    """What MLflow shows of an experiment."""

    def __init__(self, run: RunFolder, experiment: str = "ratchet", uri: str | None = None) -> None:
        self.client = client_of(uri or tracking.local_address(run.root))
        self.experiment = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs([self.experiment.experiment_id], max_results=500)
        by_start = sorted(runs, key=lambda r: (r.info.start_time, r.info.run_name))
        self.parents = sorted((r for r in by_start if "ratchet.line" in r.data.tags), key=lambda r: int(r.data.tags["ratchet.line"]))
        self.children = [r for r in by_start if "ratchet.event" in r.data.tags]
        self.registered = self.client.search_registered_models()
        self.models = sorted(self.client.search_logged_models([self.experiment.experiment_id]), key=lambda model: model.name)

    def history(self, run: Any) -> dict[str, list[tuple[int, float]]]:
        return {name: [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}

    def children_of(self, parent: Any) -> list[Any]:
        return [child for child in self.children if child.data.tags["mlflow.parentRunId"] == parent.info.run_id]

    def artifacts(self, run: Any) -> dict[str, bytes]:
        names = [file.path for file in self.client.list_artifacts(run.info.run_id)]
        return {name: Path(self.client.download_artifacts(run.info.run_id, name)).read_bytes() for name in names}

    def everything(self) -> dict[str, Any]:
        """All of it, but for what MLflow numbers or dates itself."""
        names = {r.info.run_id: r.info.run_name for r in [*self.parents, *self.children]}
        return {
            "runs": [self._run(r, names) for r in [*self.parents, *self.children]],
            "registered": [self._registered(model) for model in self.registered],
            "models": [(m.name, str(m.status), m.params, m.tags, names.get(m.source_run_id), _points(m.metrics)) for m in self.models],
        }

    def _registered(self, model: Any) -> Any:
        versions = sorted(self.client.search_model_versions(f"name = '{model.name}'"), key=lambda version: int(version.version))
        # A database and a server differ in what a version's source is, and in how they read numbers.
        shown = [(int(v.version), v.description, v.tags, self.client.get_run(v.run_id).info.run_name) for v in versions]
        return model.name, model.tags, {alias: int(version) for alias, version in model.aliases.items()}, model.description, shown

    def _run(self, run: Any, names: dict[str, str]) -> Any:
        parent = run.data.tags.get("mlflow.parentRunId")
        history = {name: _points(self.client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}
        whole = self.client.get_run(run.info.run_id)
        inputs = sorted((i.dataset.name, i.dataset.digest, [t.value for t in i.tags]) for i in whole.inputs.dataset_inputs)
        return {
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {**run.data.tags, "mlflow.parentRunId": names.get(parent, parent)},
            "metrics": history,
            "inputs": inputs,
            "outputs": [output.step for output in whole.outputs.model_outputs] if whole.outputs else [],
            "artifacts": {name: text for name, text in self.artifacts(run).items() if not name.endswith(".png")},
        }


def _points(metrics: Sequence[Any]) -> list[Any]:
    return sorted((m.key, m.timestamp, m.step, m.value, m.dataset_digest) for m in metrics or [])


@pytest.fixture(scope="module")
def ingested(made: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A copy of it after one undisturbed ingest, only to look at."""
    root = tmp_path_factory.mktemp("ingested")
    shutil.copytree(made, root, dirs_exist_ok=True)
    assert 3 == ingest(RunFolder(root, NAME)).written
    return RunFolder(root, NAME)


@pytest.fixture(scope="module")
def whole(ingested: RunFolder) -> dict[str, Any]:
    return Shown(ingested).everything()


def test_ingesting_twice_is_ingesting_once(ingested: RunFolder, whole: dict[str, Any]) -> None:
    again = ingest(ingested)
    assert (3, 0) == (again.rounds, again.written)
    assert whole == Shown(ingested).everything()


class Killed(BaseException):
    pass


class Dying:
    """A client whose process dies before its n-th call."""

    def __init__(self, client: Any, n: int) -> None:
        self.client, self.left = client, n

    def __getattr__(self, name: str) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Killed(name)
        return getattr(self.client, name)


def test_an_ingest_that_was_killed_anywhere_is_completed_by_the_next(run: RunFolder, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    real = tracking._client
    counting = Dying(real(tracking.local_address(run.root)), sys.maxsize)
    monkeypatch.setattr(tracking, "_client", lambda address: counting)
    ingest(run)
    calls = sys.maxsize - counting.left
    for n in (2, 6, 9, 13, 18, *range(calls - 24, calls, 3)):  # in the first round, in the second, in the parent, among the champions
        real(tracking.local_address(run.root)).delete_registered_model(NAME)
        monkeypatch.setattr(tracking, "_client", lambda address, n=n: Dying(real(address), n))
        with pytest.raises(Killed):
            ingest(run, f"cut {n}")
        monkeypatch.setattr(tracking, "_client", real)
        ingest(run, f"cut {n}")
        assert _without_root(whole) == _without_root(Shown(run, f"cut {n}").everything()), f"killed at call {n} of {calls}"


def _without_root(everything: Any) -> str:
    """Roots and what MLflow numbers itself differ from test to test, and stand in notes, URIs and model parameters."""
    text = re.sub(r"(runs/|run_uuid=)[0-9a-f]{32}|experiments/\d+", "ITS OWN", repr(everything))
    return re.sub(r"(/[\w.-]+)+/\.ratchet|(--root|ratchet\.root\W+) ?(/[\w.-]+)+", "ROOT", text)


def test_what_was_deleted_in_mlflow_is_written_again(run: RunFolder, whole: dict[str, Any]) -> None:
    ingest(run)
    shown = Shown(run)
    shown.client.delete_run(shown.parents[0].info.run_id)
    shown.client.delete_run(shown.children[1].info.run_id)
    assert 1 == ingest(run).written
    assert _without_root(whole["runs"]) == _without_root(Shown(run).everything()["runs"])


def test_every_curve_has_one_point_a_round(ingested: RunFolder) -> None:
    shown = Shown(ingested)
    curves = shown.history(shown.parents[0])
    assert [0, 1, 2] == [step for step, _ in curves["pass_at_1"]] == [step for step, _ in curves["pass_at_1.low"]]
    assert [1, 2] == [step for step, _ in curves["knobs/temperature"]] == [step for step, _ in curves["balance"]] == [s for s, _ in curves["kept"]]
    assert {True} == {len(points) == len({step for step, _ in points}) for points in curves.values()}


def test_each_round_is_a_child_with_its_numbers_tables_and_data(ingested: RunFolder) -> None:
    shown = Shown(ingested)
    ends = [event for event in ingested.ledger if event["kind"] == "advanced"]
    (parent,), children = shown.parents, shown.children_of(shown.parents[0])
    assert [event["state"] for event in ends] == [child.data.tags["ratchet.state"] for child in children]
    assert parent.data.params == children[2].data.params
    assert ("0.01", "b_star") == (parent.data.params["training.gain"], parent.data.params["recipe.name"])
    assert ends[2]["metrics"].items() <= children[2].data.metrics.items()
    assert {"config.yaml", "curves.png"} == shown.artifacts(parent).keys()
    tables = {name: json.loads(text) for name, text in shown.artifacts(children[2]).items()}
    assert ["temperature", "correct"] == sorted(tables["decision.json"]["columns"], reverse=True)
    drawn, outcome = (tables["samples.json"]["columns"].index(name) for name in ("drawn", "outcome"))
    greedy = [row[outcome] for row in tables["samples.json"]["data"] if row[drawn] == "greedy"]
    assert ends[2]["metrics"]["pass_at_1"] == greedy.count("correct") / len(greedy)


def test_each_policy_is_a_model_that_says_what_it_came_from(ingested: RunFolder) -> None:
    shown = Shown(ingested)
    first, second = shown.models[1], shown.models[2]
    assert 3 == len(shown.models)
    assert first.params["digest"] == second.params["parent_policy_digest"]
    inputs = shown.client.get_run(second.source_run_id).inputs.dataset_inputs
    assert {second.params["data_digest"]: "training"}.items() <= {i.dataset.digest: i.tags[0].value for i in inputs}.items()
    assert Path(second.params["uri"]) == LocalStore(state=ingested.state).object(second.params["artifact"])
    assert shown.children[2].data.metrics["pass_at_1"] == next(m.value for m in second.metrics if m.key == "pass_at_1")


def test_the_champions_are_versions_of_a_registered_model_and_the_last_can_be_fetched(ingested: RunFolder, tmp_path: Path) -> None:
    shown = Shown(ingested)
    ends = [event for event in ingested.ledger if event["kind"] == "advanced"]
    scores = [event["metrics"]["pass_at_1"] for event in ends]
    assert sorted(set(scores)) == scores, "each round is better than the one before"
    (model,) = shown.registered
    assert (NAME, {"champion": "3", "previous": "2"}) == (model.name, {alias: str(version) for alias, version in model.aliases.items()})
    champion = shown.client.get_model_version_by_alias(NAME, "champion")
    assert shown.children[2].info.run_id == champion.run_id
    linked = shown.client.get_logged_model(shown.models[2].model_id)
    assert [{"name": NAME, "version": 3}] == json.loads(linked.tags["mlflow.modelVersions"])
    words = [sys.executable, "-P", "-m", "mlflow", "artifacts", "download", "-u", f"models:/{NAME}@champion", "-d", str(tmp_path / "got")]
    address = tracking.local_address(ingested.root)
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, **ENVIRONMENT, "MLFLOW_TRACKING_URI": address}, cwd=tmp_path)
    policy = LocalStore(state=ingested.state).object(ends[2]["roles"]["policy"]["identity"]) / "policy.json"
    assert policy.read_bytes() == (tmp_path / "got" / "policy.json").read_bytes()


def test_a_runs_page_begins_with_its_champion_its_rounds_and_its_curves(ingested: RunFolder) -> None:
    shown = Shown(ingested)
    (parent,) = shown.parents
    first, table, figure, command = parent.data.tags["mlflow.note.content"].split("\n\n")
    pages = [f"#/experiments/{shown.experiment.experiment_id}/runs/{child.info.run_id}" for child in shown.children]
    assert first.startswith(f"**Champion: [round 2]({pages[2]})**, best by its main metric, pass@1 ")
    rows = table.splitlines()
    assert ["| round | pass@1 | pass@4 | kept | note |", 5] == [rows[0], len(rows)]
    assert rows[3].startswith(f"| [round 1]({pages[1]}) | ")
    assert rows[4].endswith(" | champion |")
    assert f"![the curves over the rounds](get-artifact?path=curves.png&run_uuid={parent.info.run_id})" == figure
    assert f"`ratchet show {NAME} --root {ingested.root}`" == command


def test_a_long_runs_page_shows_its_last_rounds(run: RunFolder) -> None:
    last = [event for event in run.ledger if event["kind"] == "advanced"][-1]
    for index in range(3, 60):
        again(run, last, round=index, state=f"{index:032d}", previous=f"{index - 1:032d}")
    ingest(run)
    note = Shown(run).parents[0].data.tags["mlflow.note.content"]
    assert "The last 16 rounds; 44 came before them." in note
    assert (True, False) == ("[round 44]" in note, "[round 43]" in note)
    assert 5000 > len(note)


def aliases(run: RunFolder, name: str = NAME, uri: str | None = None) -> dict[str, str]:
    """alias → the words of the version that it stands on, of those that count."""
    client = client_of(uri or tracking.local_address(run.root))
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    found = {alias: versions[str(version)] for alias, version in client.get_registered_model(name).aliases.items()}
    assert {"false"} == {version.tags["ratchet.superseded"] for version in found.values()}
    return {alias: version.description.partition(":")[0] for alias, version in found.items()}


def test_a_round_that_ends_anew_is_the_champion_no_more(run: RunFolder) -> None:
    ingest(run)
    assert {"champion": "round 2 of toy", "previous": "round 1 of toy"} == aliases(run)
    ends = [event for event in run.ledger if event["kind"] == "advanced"]
    again(run, ends[1], state="e" * 32, metrics={"pass_at_1": 0.125})
    ingest(run)
    assert {"champion": "round 0 of toy"} == aliases(run)
    again(run, ends[2], state="f" * 32, metrics={"pass_at_1": 0.9})
    ingest(run)
    assert {"champion": "round 2 of toy", "previous": "round 0 of toy"} == aliases(run)
    client_of(tracking.local_address(run.root)).delete_registered_model(NAME)
    ingest(run)
    assert {"champion": "round 2 of toy", "previous": "round 0 of toy"} == aliases(run), "as in a registry that saw it all"


def test_a_registered_model_of_somebody_elses_is_left_alone(run: RunFolder) -> None:
    client = client_of(tracking.local_address(run.root))
    client.create_registered_model(NAME, description="mine")
    ingest(run)
    assert ("mine", {}) == (client.get_registered_model(NAME).description, client.get_registered_model(NAME).aliases)
    (other,) = [model for model in client.search_registered_models() if model.name != NAME]
    assert re.fullmatch(r"toy [0-9a-f]{6}", other.name)
    assert "round 2 of toy" == aliases(run, other.name)["champion"]


def test_what_a_round_measured_is_its_candidate_where_gates_kept_the_champion(run: RunFolder) -> None:
    ends = [event for event in run.ledger if event["kind"] == "advanced"]
    (old, new) = (ends[index]["roles"]["policy"] for index in (1, 2))
    run.ledger.append("judged", round=2, verdict="v", digest="d", action="keep", promoted=False, candidate=new, gates=[])
    again(run, ends[2], state="e" * 32, roles={**ends[2]["roles"], "policy": old, "champion": old, "candidate": new})
    ingest(run)
    shown = Shown(run)
    model = next(model for model in shown.models if model.source_run_id == shown.children[-1].info.run_id)
    assert new["digest"] == model.params["digest"]
    assert "round 1 of toy" == aliases(run)["champion"]


def test_a_round_that_ends_anew_leaves_no_stale_point(run: RunFolder) -> None:
    ingest(run)
    old = Shown(run)
    ends = [event for event in run.ledger if event["kind"] == "advanced"]
    again(run, ends[1], state="e" * 32, metrics={"pass_at_1": 0.125})
    assert (1, 0) == (ingest(run, driven=True).written, ingest(run, driven=True).written)
    shown = Shown(run)
    before, now = shown.parents
    assert [(0, 0.25), (1, 0.125)] == shown.history(now)["pass_at_1"]
    assert (["0", "1"], ["1", "2"]) == tuple([c.data.tags["ratchet.round"] for c in shown.children_of(parent)] for parent in (now, before))
    assert (old.parents[0].info.run_id, "toy (superseded 1)", "KILLED") == (before.info.run_id, before.info.run_name, before.info.status)
    assert ("toy", "RUNNING") == (now.info.run_name, now.info.status)
    assert old.history(old.parents[0]) == shown.history(before)


def again(run: RunFolder, event: Event, **changes: Any) -> None:
    """Let a round end once more."""
    kind = event["kind"]
    run.ledger.append(kind, **{name: value for name, value in {**event, **changes}.items() if name not in ("kind", "number", "at")})


def test_a_retried_round_that_comes_out_the_same_stays_where_it_is(run: RunFolder) -> None:
    ingest(run)
    end = [event for event in run.ledger if event["kind"] == "advanced"][2]
    run.ledger.append("retried", round=2, verb=None, identities=[end["state"]], titles=[])
    again(run, end)
    ingest(run)
    shown = Shown(run)
    assert 1 == len(shown.parents)
    assert ["0", "0", "1"] == [child.data.tags["ratchet.retried"] for child in shown.children]
    assert [0, 1, 2] == [step for step, _ in shown.history(shown.parents[0])["pass_at_1"]]


def test_a_run_shows_how_it_stands(run: RunFolder) -> None:
    def status(**more: Any) -> str:
        ingest(run, **more)
        return str(Shown(run).parents[0].info.status)

    assert "FINISHED" == status(driven=True)
    run.ledger.append("stage", round=3, verb="train", ordinal=0, cell=None, title="round 3 · train", identity="f" * 32, essence={"inputs": {}})
    assert "KILLED" == status()
    assert "RUNNING" == status(driven=True)
    run.ledger.append("failed", identity="f" * 32, title="round 3 · train", attempt=1, state="failed", reason="no memory")
    assert "FAILED" == status()
    assert "round 3 · train: no memory" == Shown(run).parents[0].data.tags["ratchet.reason"]
    run.ledger.append("stopped", reason="nothing was selected")
    assert "KILLED" == status()


def test_changed_operations_change_the_config_but_no_param(run: RunFolder) -> None:
    ingest(run)
    driver = next(event for event in run.ledger if event["kind"] == "driver")
    run.ledger.append("driver", process=driver["process"], command=[], operations={**driver["operations"], "rounds": 7})
    ingest(run)
    shown = Shown(run)
    assert "2" == shown.parents[0].data.params["rounds"]
    assert b"rounds: 7\n" in shown.artifacts(shown.parents[0])["config.yaml"]


def test_the_training_curve_is_drawn_by_optimizer_step(run: RunFolder) -> None:
    policy = [event for event in run.ledger if event["kind"] == "advanced"][2]["roles"]["policy"]["identity"]
    rows = [{"step": step, "loss": 2.0 / step, "learning_rate": 0.1} for step in range(1, 2101)]
    (LocalStore(state=run.state).object(policy) / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ingest(run)
    shown = Shown(run)
    curve = shown.history(shown.children[2])["curve/loss"]
    assert ([(1, 2.0), (4, 0.5)], 700) == (curve[:2], len(curve))
    assert "curve/loss" not in shown.children[1].data.metrics


def test_what_is_not_in_the_store_is_left_out_until_it_is(run: RunFolder, whole: dict[str, Any]) -> None:
    store = LocalStore(state=run.state)
    (adjusted,) = (e["identity"] for e in run.ledger if e["kind"] == "published" and e["title"] == "round 2 · adjust")
    aside = store.quarantine(adjusted)
    assert 3 == ingest(run).written
    shown = Shown(run)
    assert {"samples.json"} == shown.artifacts(shown.children[2]).keys()
    assert 0 == ingest(run).written
    aside.rename(store.object(adjusted))
    assert 1 == ingest(run).written
    assert _without_root(whole) == _without_root(Shown(run).everything())


def test_long_and_odd_values_are_taken(run: RunFolder) -> None:
    opening, odd = run.opening(), {"long": "x" * 9000, "sweep": {"a+b=(c)": [1, 2]}, "empty": "", "none": {}}
    (run.ledger.folder / "000001-run.json").write_text(json.dumps({**opening, "config": {**opening["config"], **odd}}))
    moved = RunFolder(run.root, NAME)
    ingest(moved)
    params = Shown(moved).parents[0].data.params
    assert (500, "[1,2]", '""', "{}") == (len(params["long"]), params["sweep.a_b__c_"], params["empty"], params["none"])


def test_a_deleted_experiment_is_the_users_to_mend(run: RunFolder) -> None:
    client = client_of(tracking.local_address(run.root))
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="was deleted"):
        ingest(run, "gone")


def test_a_database_that_was_made_elsewhere_is_named(run: RunFolder) -> None:
    client_of(tracking.local_address(run.root)).create_experiment("moved", artifact_location="file:///elsewhere")
    with pytest.raises(InputError, match=r"delete .*mlflow\.db"):
        ingest(run, "moved")


def test_a_broken_database_is_named(run: RunFolder) -> None:
    (run.state / "mlflow.db").write_text("no database at all, but long enough to be taken for the header of one")
    with pytest.raises(TrackerAway, match=r"mlflow\.db does not take .*file is not a database"):
        ingest(run)


def test_a_run_that_is_not_written_down_yet_is_none(root: Path) -> None:
    assert ingest(RunFolder(root, "new")) is None
    assert not (root / "new").exists()


def _answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/health", timeout=2).status == 200)
    except OSError:
        return False


def test_a_server_that_was_down_has_everything_at_the_next_contact(
    run: RunFolder, server: str, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with pytest.raises(TrackerAway, match=r"MLflow at http://…@127.0.0.1:9 does not take"):
        ingest(run, uri="http://me:secret@127.0.0.1:9")
    assert 10 > time.monotonic() - began
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert (3, 0) == (ingest(run).written, ingest(run).written)
    assert _without_root(whole) == _without_root(Shown(run, uri=server).everything())
    assert {"champion": "round 2 of toy", "previous": "round 1 of toy"} == aliases(run, uri=server)
    assert ("", "") == capfd.readouterr()


def test_a_server_that_hangs_is_given_up(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(TrackerAway):
            ingest(run, uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert 10 > time.monotonic() - began


def test_one_process_at_a_time_writes_a_run(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from ratchet.infra.claims import Lock

    monkeypatch.setattr(tracking, "LOCK_S", 0.2)
    with Lock(run.folder / "tracker") as lock:
        assert lock.try_acquire()
        with pytest.raises(TrackerAway, match="another process"):
            ingest(run)
