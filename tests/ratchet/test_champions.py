"""Which round is the champion: by gates, by the main metric, by hand."""

from typing import Any

import pytest

from ratchet.champions import crownings, made_by


def ended(round: int, score: float | None, *, champion: str | None = None, policy: str | None = None, name: str = "pass_at_1") -> dict[str, Any]:
    roles = {"policy": {"digest": policy or f"p{round}"}, **({"champion": {"digest": champion}} if champion else {})}
    metrics = {} if score is None else {name: score}
    return {"round": round, "number": 10 * round + 5, "at": 100.0 + round, "state": f"s{round}", "metrics": metrics, "roles": roles}


def by_hand(round: int, number: int, *, state: str | None = None, model: str | None = None) -> dict[str, Any]:
    return {"round": round, "number": number, "at": 500.0, "state": state or f"s{round}", "model": model}


def told(rounds: list[dict[str, Any]], promoted: list[dict[str, Any]], headline: tuple[str, ...] = ("pass_at_1",)) -> list[tuple[int, str]]:
    return [(crowning.round, crowning.by) for crowning in crownings(rounds, promoted, headline)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([0.2, 0.4, 0.4, 0.3, 0.5], [0, 1, 4]),
        ([0.5, 0.5, 0.1], [0]),
        ([None, 0.1, None, 0.2], [1, 3]),
    ],
)
def test_without_gates_each_round_that_is_better_than_all_before(scores: list[float | None], expected: list[int]) -> None:
    assert [(index, "metric") for index in expected] == told([ended(index, score) for index, score in enumerate(scores)], [])


def test_the_first_metric_of_the_headline_that_there_is_decides() -> None:
    rounds = [ended(0, 0.1, name="spl"), ended(1, 0.3, name="spl"), ended(2, 0.2, name="spl")]
    assert [(0, "metric"), (1, "metric")] == told(rounds, [], ("success", "spl"))
    assert [] == told(rounds, [], ("pass_at_1",))


def test_gates_say_whom_they_promoted_whatever_the_metric_says() -> None:
    rounds = [ended(0, 0.2, champion="p0"), ended(1, 0.9, champion="p0"), ended(2, 0.1, champion="p2"), ended(3, 0.8, champion="p2", policy="p2")]
    found = crownings(rounds, [], ("pass_at_1",))
    assert [(0, "gates", 5), (2, "gates", 25)] == [(one.round, one.by, one.number) for one in found]


def test_the_champion_that_a_fork_brought_with_it_is_the_round_that_it_was_forked_after() -> None:
    """Gates that begin in round 2 of a fork crown round 1, whose policy they found, when they keep it."""
    rounds = [ended(0, 0.2), ended(1, 0.3), ended(2, 0.1, champion="p1", policy="p1")]
    assert [(1, "gates")] == told(rounds, [])
    assert [] == told([ended(0, 0.2, champion="somebody else's")], [])


def test_a_hand_overrules_the_metric_for_good_and_gates_until_they_promote_again() -> None:
    plain = [ended(index, score) for index, score in enumerate([0.1, 0.2, 0.3, 0.4])]
    assert [(0, "metric"), (1, "metric"), (0, "hand")] == told(plain, [by_hand(0, number=17)])
    assert [(0, "metric"), (1, "metric"), (0, "hand"), (3, "hand")] == told(plain, [by_hand(0, number=17), by_hand(3, number=90)])
    assert [(0, "metric"), (1, "hand")] == told(plain, [by_hand(1, number=17)]), "confirmed, and better ones do not count any more"
    gated = [ended(0, 0.1, champion="p0"), ended(1, 0.2, champion="p1"), ended(2, 0.3, champion="p1", policy="p1"), ended(3, 0.4, champion="p3")]
    assert [(0, "gates"), (1, "gates"), (0, "hand"), (3, "gates")] == told(gated, [by_hand(0, number=27)])


def test_a_promotion_counts_for_the_round_as_it_was_and_for_the_model_it_names() -> None:
    rounds = [ended(0, 0.1), ended(1, 0.2)]
    assert [(0, "metric"), (1, "metric")] == told(rounds, [by_hand(0, 90, state="set aside since"), by_hand(0, 91, model="another")])


def test_what_a_round_made_is_its_candidate_where_gates_kept_the_champion() -> None:
    old, new = {"digest": "old"}, {"digest": "new"}
    assert old == made_by({"policy": old}, None)
    assert new == made_by({"policy": old, "champion": old, "candidate": new}, {"candidate": new})
    assert old == made_by({"policy": old, "champion": old, "candidate": new}, None), "it made none; the candidate is an earlier round's"
    assert old == made_by({"policy": old, "champion": old, "candidate": new}, {"candidate": {"digest": "of a try that was set aside"}})
