"""What a tracker shows of a ledger, read from events alone."""

from typing import Any

import pytest

from ratchet.infra.figures import curves, panels
from ratchet.infra.history import History, history_of
from ratchet.infra.ledger import Event


def ledger(*events: Event) -> History:
    opening: Event = {"kind": "run", "config": {"rounds": 2}, "science": "abcdef"}
    return history_of([{**event, "number": number, "at": float(number)} for number, event in enumerate([opening, *events], start=1)])


def stage(round: int, verb: str, *, purpose: str = "", ordinal: int = 0, cell: str | None = None, **inputs: Any) -> Event:
    title = " · ".join(word for word in (f"round {round}", purpose, verb + (f" #{ordinal + 1}" if ordinal else ""), cell or "") if word)
    identity = f"{round}/{purpose}/{verb}/{ordinal}/{cell}"
    place = {"round": round, "verb": verb, "ordinal": ordinal, "cell": cell}
    return {"kind": "stage", **place, "title": title, "identity": identity, "essence": {"inputs": inputs}}


def published(of: Event, *, rows: int = 0, seconds: float = 1.0, **metrics: float) -> Event:
    digest = f"digest of {of['identity']}"
    return {"kind": "published", "identity": of["identity"], "digest": digest, "rows": rows, "seconds": seconds, "metrics": metrics}


def advanced(round: int, state: str = "", policy: str = "p", **metrics: float) -> Event:
    roles = {"policy": {"identity": policy, "digest": f"digest of {policy}"}}
    said = {"knobs": {"temperature": 0.5}, "metrics": metrics, "report": f"{round}//evaluate/0/None", "note": ""}
    return {"kind": "advanced", "round": round, "state": state or f"state {round}", "roles": roles, **said}


def retried(*states: str) -> Event:
    return {"kind": "retried", "identities": list(states)}


STOPPED: Event = {"kind": "stopped", "reason": "nothing was selected"}
FAILED: Event = {"kind": "failed", "title": "round 2 · train", "reason": "no memory"}
FINISHED: Event = {"kind": "finished", "rounds": 2}
DRIVER: Event = {"kind": "driver", "operations": {"rounds": 3}}


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        pytest.param([{0: "state 0", 1: "state 1"}], [advanced(0), advanced(1)], id="round after round is one line"),
        pytest.param(
            [{0: "state 0", 1: "state 1", 2: "state 2"}, {0: "state 0", 1: "other"}],
            [advanced(0), advanced(1), advanced(2), advanced(1, "other")],
            id="another end of a round begins a line, without what came after the old end",
        ),
        pytest.param(
            [{0: "state 0", 1: "state 1"}],
            [advanced(0), advanced(1), retried("state 1"), advanced(1)],
            id="a round that was retried and came out the same is the round it was",
        ),
        pytest.param(
            [{0: "state 0", 1: "state 1", 2: "state 2"}, {0: "state 0", 1: "new 1", 2: "new 2"}],
            [advanced(0), advanced(1), advanced(2), retried("state 1", "state 2"), advanced(1, "new 1"), advanced(2, "new 2")],
            id="a retried round and those after it begin one line together",
        ),
        pytest.param(
            [{0: "state 0", 1: "state 1", 2: "state 2"}, {0: "state 0", 1: "state 1", 2: "new 2"}],
            [advanced(0), advanced(1), advanced(2), retried("state 1", "state 2"), advanced(1), advanced(2, "new 2")],
            id="only the round that came out otherwise is replaced",
        ),
        pytest.param(
            [{0: "state 0", 1: "state 1"}, {0: "state 0"}],
            [advanced(0), advanced(1), retried("state 1"), STOPPED],
            id="a retried round that never ended again does not count",
        ),
    ],
)
def test_lines(lines: list[dict[int, str]], events: list[Event]) -> None:
    found = ledger(*events).lines
    assert lines == [{index: ended.event["state"] for index, ended in line.rounds.items()} for line in found]
    assert [False] * (len(lines) - 1) + [True] == [line.replaced_at is None for line in found]


@pytest.mark.parametrize(
    ("status", "events"),
    [
        ("open", []),
        ("open", [advanced(0)]),
        ("finished", [advanced(0), FINISHED]),
        ("finished", [advanced(0), FINISHED, DRIVER]),
        ("open", [advanced(0), FINISHED, DRIVER, stage(3, "train")]),
        ("stopped", [STOPPED]),
        ("failed", [FAILED]),
        ("open", [FAILED, DRIVER]),
        ("open", [FINISHED, retried("state 1")]),
    ],
)
def test_how_a_run_stands(status: str, events: list[Event]) -> None:
    assert status == ledger(*events).status


def test_the_config_is_that_of_the_last_driver() -> None:
    found = ledger(DRIVER)
    assert ({"rounds": 3}, {"rounds": 2}) == (found.config, found.opening["config"])


def test_a_rounds_numbers_are_named_by_who_measured_them() -> None:
    probe = stage(1, "verify", cell="temperature=0.5")
    own, exam = stage(1, "verify", ordinal=1), stage(1, "verify", purpose="evaluation", ordinal=2)
    sampled, adjust = stage(1, "verify", purpose="evaluation", ordinal=3), stage(1, "adjust")
    select, later = stage(1, "select"), stage(2, "train")
    events = [probe, own, exam, sampled, adjust, select, published(probe, wrong=9)]
    events += [published(own, correct=1), published(exam, correct=2), published(sampled, correct=3), published(adjust, balance=0.25)]
    events += [published(select, rows=7), later, published(later), advanced(1, pass_at_1=0.5)]
    expected = {
        "pass_at_1": 0.5,
        "knobs/temperature": 0.5,
        "balance": 0.25,
        "kept": 7.0,
        "seconds": 6.0,
        "verify/correct": 1.0,
        "evaluation.verify/correct": 2.0,
        "evaluation.verify.2/correct": 3.0,
        "adjust/balance": 0.25,
    }
    assert expected == ledger(*events).lines[0].rounds[1].metrics()


def test_what_happens_after_a_rounds_end_does_not_change_what_is_told_of_it() -> None:
    train = stage(1, "train")
    before = [train, published(train, loss=1.0), advanced(1)]
    after = [retried("state 1", train["identity"]), published(train, loss=0.5, seconds=9.0)]
    told = [ledger(*events).lines[0].rounds[1] for events in (before, before + after)]
    assert told[0] == told[1]
    assert 1 == ledger(*before, *after).times_retried(told[0])


def test_a_policy_is_traced_to_the_stage_that_made_it() -> None:
    train = stage(1, "train", policy="digest of old", examples="digest of data")
    events = [train, published(train), advanced(1, policy=train["identity"]), advanced(2, policy=train["identity"])]
    first, second = ledger(*events).lines[0].rounds.values()
    assert {"policy": "digest of old", "examples": "digest of data"} == (first.training.inputs if first.training else {})
    assert second.training is None


def test_the_figure_draws_what_was_measured_with_its_intervals() -> None:
    points = {0: {"pass_at_1": 0.1, "pass_at_1.low": 0.0, "pass_at_1.high": 0.2, "pass_at_4": 0.3, "pass_at_16": 0.4}, 1: {"balance": 0.5}}
    assert ["pass_at_1", "pass_at_16", "balance"] == panels(points)
    axes = curves(points, "run").axes
    assert ["pass@1", "pass@16", "balance"] == [each.get_title() for each in axes]
    assert ([0], [1]) == tuple(list(each.lines[0].get_xdata()) for each in (axes[0], axes[2]))
    assert [] == panels({})
