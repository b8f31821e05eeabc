"""What crosses rounds."""

import pytest

from ratchet.artifacts import Artifact
from ratchet.rounds import Knobs, Round, RoundState


def artifact(name: str) -> Artifact:
    return Artifact(identity=name, digest=name, kind="policy")


def turn(state: RoundState) -> Round:
    return Round(index=state.round + 1, state=state, problems=artifact("train"), dev=artifact("dev"))


BASE = RoundState(roles={"policy": artifact("p0"), "base": artifact("p0"), "prm": artifact("judge")})


def test_a_round_hands_on_its_policy_and_keeps_the_other_roles() -> None:
    state = turn(BASE).advance(artifact("p1"), knobs={"temperature": 0.5}, stores={"pool": artifact("s")}, teacher=artifact("t"))
    assert (1, "p1", "p0", "judge") == (state.round, state.policy.identity, state.roles["base"].identity, state.roles["prm"].identity)
    assert ({"temperature": 0.5}, "s", "t") == (state.knobs, state.stores["pool"].identity, state.roles["teacher"].identity)


def test_a_round_without_a_new_policy_keeps_the_old() -> None:
    assert BASE.policy == turn(BASE).advance().policy


def test_a_role_is_found_so_many_rounds_ago_and_at_the_start_before_that() -> None:
    state = BASE
    for name in ("p1", "p2", "p3"):
        state = turn(state).advance(artifact(name))
    assert ["p3", "p2", "p1", "p0", "p0"] == [state.role("policy", back=back).identity for back in (0, 1, 2, 3, 9)]
    assert "p2" == turn(state).role("policy", back=1).identity


def test_history_does_not_nest() -> None:
    state = turn(turn(BASE).advance(artifact("p1"))).advance(artifact("p2"))
    assert [0, 1] == [past.round for past in state.history]
    assert [(), ()] == [past.history for past in state.history]


def test_knobs_read_as_attributes_and_a_knob_that_was_not_set_says_which_were() -> None:
    knobs = Knobs({"temperature": 0.5})
    assert (0.5, {"temperature": 0.5}) == (knobs.temperature, dict(knobs))
    with pytest.raises(AttributeError, match=r"set \['temperature'\], not threshold"):
        _ = knobs.threshold
