"""SID on real houses, as `experiment=sid_reverie` runs it, cut to seconds: one shard a scan, none of them missing, the split as documented."""

import json
from pathlib import Path

import pytest

from ratchet.infra.runs import RunFolder
from tests.toys.drive import Warm

REVERIE = Path(__file__).parents[2] / "../shared/data/reverie"
SMALL = ("task.per_scan=1", "training.steps=25", "synthesis.samples=1", "evaluation.pictures=1", "rounds=1")


@pytest.mark.skipif(not REVERIE.exists(), reason="the REVERIE files do not lie beside the clone (../shared/data/reverie)")
def test_sid_on_the_published_houses(ratchet: Warm, root: Path) -> None:
    words = ("experiment=sid_reverie", "sweep=null", "recipe=sid", "seed=0", f"reverie={REVERIE.resolve()}", *SMALL)
    done = ratchet("run", *words, "--name", "houses", "--no-prefect", "tracker=null", root=root)
    assert 0 == done.code, done.err
    run = RunFolder(root, "houses")
    stages = {event["title"]: event for event in run.ledger if event["kind"] == "stage"}
    shards = {event["title"] for event in run.ledger if event["kind"] == "attempt" and event["title"].startswith("round 1 · synthesize · shard")}
    assert {f"round 1 · synthesize · shard {number}/41" for number in range(1, 42)} == shards
    # 42 scans train; one of 8 places has no way of 5 places
    objects = run.state / "objects"
    trained, tested = (
        {json.loads(line)["group"] for line in (objects / stages[title]["identity"] / "records.jsonl").read_text().splitlines()}
        for title in ("round 0 · train problems · propose", "round 0 · evaluation · propose #4")
    )
    assert (41, 12, set()) == (len(trained), len(tested), trained & tested)
    ends = [event["metrics"] for event in run.ledger if event["kind"] == "advanced"]
    assert {f"yield.{scan}" for scan in tested} <= ends[1].keys()
    assert any(path.name.startswith("trajectory-1-") for path in (objects / ends_report(run)).iterdir())


def ends_report(run: RunFolder) -> str:
    identity: str = [event["report"] for event in run.ledger if event["kind"] == "advanced"][-1]
    return identity
