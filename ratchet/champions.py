"""Which rounds of a run were its champions, one after the other: by its gates; without gates by what its evaluation names first; or by hand."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ratchet.errors import InputError
from ratchet.identity import locate

BY = {"gates": "promoted by its gates", "metric": "best by its main metric", "hand": "promoted by hand"}
"""Why a round is the champion."""

HEADLINE = ("pass_at_1", "pass_at_K")


def headline_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics that a run is judged by, the main one first: its evaluation's `headline`, where it has one; K is its `samples`."""
    evaluation = config.get("evaluation") or {}
    try:
        names = getattr(locate(evaluation.get("_target_", "")), "headline", HEADLINE)
    except InputError:  # a part of somebody's own that is not here
        names = HEADLINE
    samples = evaluation.get("samples")
    return tuple(name.replace("_K", f"_{samples}") for name in names if samples or not name.endswith("_K"))


@dataclass(frozen=True, kw_only=True)
class Crowning:
    """A round that became the champion."""

    round: int
    number: int
    """Of the ledger's event that says so."""
    at: float
    by: Literal["gates", "metric", "hand"]


def crownings(advanced: Iterable[Mapping[str, Any]], promoted: Iterable[Mapping[str, Any]], headline: Sequence[str]) -> list[Crowning]:
    """The champions of a run, the one that counts last.

    Takes the `advanced` events of the rounds that count, in their order, and the run's `promoted` events. Gates say by the role `champion`
    whom they promoted. Without gates it is the first round with the best value yet of the first metric of the headline that there is. A
    round that somebody promoted by hand is the champion until gates promote a later one, or somebody another one.
    """
    rounds = list(advanced)
    state = {event["round"]: event["state"] for event in rounds}
    by_hand = [_crowned(event, event["round"], "hand") for event in promoted if not event["model"] and state.get(event["round"]) == event["state"]]
    judged = any("champion" in event["roles"] for event in rounds)
    found = _by_gates(rounds) if judged else _by_metric(rounds, headline)
    if by_hand and not judged:
        found = [crowning for crowning in found if crowning.number < by_hand[0].number]
    chain = list[Crowning]()
    for crowning in sorted([*found, *by_hand], key=lambda crowning: crowning.number):
        if chain and chain[-1].round == crowning.round:  # confirmed: since then, and by now for this reason
            chain[-1] = replace(chain[-1], by=crowning.by)
        else:
            chain.append(crowning)
    return chain


def made_by(roles: Mapping[str, Any], judged: Mapping[str, Any] | None) -> Mapping[str, str]:
    """Identity and digest of the policy that a round made and measured: where gates kept the champion, it plays another role than `policy`.

    `judged` is the last such event of the round; one that is about another candidate than the round's does not count.
    """
    candidate = judged["candidate"] if judged else None
    found: Mapping[str, str] = candidate if candidate and candidate == roles.get("candidate") else roles["policy"]
    return found


def _crowned(event: Mapping[str, Any], round: int, by: Literal["gates", "metric", "hand"]) -> Crowning:
    return Crowning(round=round, number=event["number"], at=event["at"], by=by)


def _by_gates(rounds: Sequence[Mapping[str, Any]]) -> list[Crowning]:
    made: dict[str, int] = {}
    found, last = list[Crowning](), None
    for event in rounds:
        made.setdefault(event["roles"]["policy"]["digest"], event["round"])
        champion = event["roles"].get("champion", {}).get("digest")
        if champion in made and champion != last:
            found.append(_crowned(event, made[champion], "gates"))
            last = champion
    return found


def _by_metric(rounds: Sequence[Mapping[str, Any]], headline: Sequence[str]) -> list[Crowning]:
    main = next((name for name in headline if any(name in event["metrics"] for event in rounds)), None)
    found, best = list[Crowning](), -math.inf
    for event in rounds:
        if (value := event["metrics"].get(main, -math.inf)) > best:
            found.append(_crowned(event, event["round"], "metric"))
            best = value
    return found
