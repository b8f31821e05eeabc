"""`ratchet promote`: somebody's word, once in the ledger, at once in MLflow, and no run is changed by it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.flows.summary import summary_of
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.tracking import local_address, prepare
from tests.flows.test_gates import TIPS, gated
from tests.toys.drive import Warm

NAME = "mine"
AWAY = "tracker.uri=http://127.0.0.1:9"


@pytest.fixture(scope="module")
def made(ratchet: Warm, memory: Path) -> Iterator[Path]:
    """A root with two runs: a plain one of three rounds, and one whose gates kept round 2 from being promoted. MLflow knows neither."""
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        root = Path(folder)
        assert 0 == ratchet.run("recipe=rest_em", "rounds=3", "tracker=mlflow", AWAY, "--name", NAME, root=root).code
        assert 0 == gated(ratchet, root, *TIPS, "tracker=mlflow", AWAY, name="group/gated").code
        yield root


@pytest.fixture
def root(made: Path, root: Path) -> Path:
    return shutil.copytree(made, root, dirs_exist_ok=True)


def run_of(root: Path, name: str = NAME) -> RunFolder:
    return RunFolder(root, name)


def promoted(root: Path, name: str = NAME) -> list[dict[str, Any]]:
    return [event for event in run_of(root, name).ledger if event["kind"] == "promoted"]


def champions(root: Path, model: str) -> dict[str, str]:
    """Of a registered model in MLflow: alias → `round K of NAME`."""
    prepare()
    from mlflow import MlflowClient

    client = MlflowClient(local_address(root))
    versions = {int(v.version): v.description.partition(":")[0] for v in client.search_model_versions(f"name = '{model}'")}
    return {alias: versions[int(version)] for alias, version in client.get_registered_model(model).aliases.items()}


def shown(root: Path, *names: str) -> None:
    """Let MLflow, which was away, be the root's own."""
    for name in names or (NAME,):
        run = run_of(root, name)
        operations = [event for event in run.ledger if event["kind"] == "driver"][-1]["operations"]
        run.ledger.append("driver", process={}, command=[], operations={**operations, "tracker": {**operations["tracker"], "uri": None}})


def test_a_round_is_promoted_once_and_is_the_champion_everywhere(ratchet: Warm, root: Path) -> None:
    shown(root)
    best = summary_of(run_of(root)).champion
    assert best is not None
    assert best.round != 2, "or this test shows nothing"
    before = results(run_of(root).ledger), summary_of(run_of(root)).status
    done = ratchet("promote", NAME, "--round", "2", root=root)
    assert 0 == done.code, done.err
    assert done.out.startswith(f"round 2 of {NAME} (pass@1 ")
    assert "is the champion of mine now\n" in done.out
    policy = run_of(root).state / "objects" / promoted(root)[0]["policy"]["identity"]
    assert f"its policy: {policy}\n" in done.out
    assert f"the one before: round {best.round}\n" in done.out
    assert {"champion": "round 2 of mine", "previous": f"round {best.round} of mine"} == champions(root, NAME)
    again = ratchet("promote", NAME, "--round", "2", root=root)
    assert (0, 1) == (again.code, len(promoted(root)))
    assert "is the champion of mine already\n" in again.out
    assert "Champion: round 2, promoted by hand." in ratchet("show", NAME, root=root).out
    assert "round 2 (champion: promoted by hand)" in ratchet("gc", NAME, "--keep-last", "1", root=root).out
    assert before == (results(run_of(root).ledger), summary_of(run_of(root)).status), "no run is changed by it"


def test_a_model_that_many_runs_feed_has_the_last_promotion_as_its_champion(ratchet: Warm, root: Path) -> None:
    shown(root, NAME, "group/gated")
    assert 0 == ratchet("promote", "group/gated", "--to", "solver", root=root).code, "by default its own champion"
    assert {"champion": "round 1 of group/gated"} == champions(root, "solver")
    assert 0 == ratchet("promote", NAME, "--round", "2", "--to", "solver", root=root).code
    assert {"champion": "round 2 of mine", "previous": "round 1 of group/gated"} == champions(root, "solver")
    assert 0 == ratchet("resume", "group/gated", "--no-prefect", root=root).code, "which brings MLflow up to date"
    assert {"champion": "round 2 of mine", "previous": "round 1 of group/gated"} == champions(root, "solver")
    assert {"champion": "round 1 of group/gated", "previous": "round 0 of group/gated"} == champions(root, "group.gated")
    assert "Promoted: round 2 as solver." in ratchet("show", NAME, root=root).out
    assert 0 == ratchet("promote", "group/gated", "--to", "solver", root=root).code
    assert {"champion": "round 1 of group/gated", "previous": "round 2 of mine"} == champions(root, "solver"), "the last word counts"


def test_what_gates_refused_is_promoted_only_on_purpose_and_is_what_the_round_made(ratchet: Warm, root: Path) -> None:
    shown(root, "group/gated")
    done = ratchet("promote", "group/gated", "--round", "2", root=root)
    assert 2 == done.code
    assert "the gates of group/gated did not let round 2 pass" in done.err
    assert "tipping" in done.err
    assert "--yes promotes it all the same" in done.err
    assert [] == promoted(root, "group/gated")
    assert 0 == ratchet("promote", "group/gated", "--round", "2", "--yes", root=root).code
    row = summary_of(run_of(root, "group/gated")).rounds[2]
    assert row.roles["candidate"] == promoted(root, "group/gated")[0]["policy"] != row.roles["policy"]
    assert {"champion": "round 2 of group/gated", "previous": "round 1 of group/gated"} == champions(root, "group.gated")


def test_a_promotion_that_mlflow_is_away_for_stands_and_is_written_later(ratchet: Warm, root: Path) -> None:
    done = ratchet("promote", NAME, "--round", "1", root=root)
    assert 0 == done.code
    assert "MLflow at http://127.0.0.1:9 does not take" in done.err
    shown(root)
    assert 0 == ratchet("resume", NAME, "--no-prefect", root=root).code
    assert "round 1 of mine" == champions(root, NAME)["champion"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--round", "9"), "a round that has ended: 0, 1, 2, 3"),
        (("--to", "a/b"), "no name for a registered model"),
        (("--to", ""), "no name for a registered model"),
    ],
)
def test_what_cannot_be_promoted_is_said(ratchet: Warm, root: Path, words: tuple[str, ...], says: str) -> None:
    done = ratchet("promote", NAME, *words, root=root)
    assert (2, []) == (done.code, promoted(root))
    assert says in done.err


def test_a_run_that_there_is_not_is_said_and_not_begun(ratchet: Warm, root: Path) -> None:
    done = ratchet("promote", "typo", root=root)
    assert (2, False) == (done.code, (root / "typo").exists())
    assert "there is no run 'typo'" in done.err


def test_a_policy_that_is_gone_is_not_promoted(ratchet: Warm, root: Path) -> None:
    row = summary_of(run_of(root)).rounds[1]
    shutil.rmtree(run_of(root).state / "objects" / row.policy["identity"])
    done = ratchet("promote", NAME, "--round", "1", root=root)
    assert (2, []) == (done.code, promoted(root))
    assert "the policy of round 1 is not in the store any more" in done.err
