"""What MLflow's page of a run says first: its champion, its rounds as a table with links, its curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.champions import BY, Crowning, headline_of
from ratchet.infra.history import EndedRound, History, Line

LAST = 16
"""Rounds that the table shows; a description has no room for many."""


def of_run(history: History, line: Line, pages: Mapping[int, str], figure: str | None, command: str) -> str:
    """Markdown for a parent; `pages` are the addresses of the rounds' pages by the number of the event that ended them."""
    names = [name for name in headline_of(history.config) if any(name in ended.event["metrics"] for ended in line.rounds.values())]
    crowned = history.crownings()[-1:] if line.replaced_at is None else []
    parts = [_champion(line, crowning, names, pages) for crowning in crowned]
    if line.replaced_at is not None:
        parts = ["Superseded: one of its rounds was made again and came out otherwise."]
    if line.rounds:
        parts.append(_rounds(line, names, pages, crowned))
    if figure:
        parts.append(f"![the curves over the rounds]({figure})")
    return "\n\n".join([*parts, f"`{command}`"])


def of_round(ended: EndedRound) -> str:
    """Markdown for a child: what became of the round, and what its gates said."""
    said = ended.judged["gates"] if ended.judged else ()
    lines = [f"- {one['name']} **{one['verdict']}**: {one['words']}" for one in said]
    return "\n\n".join(part for part in (ended.event["note"], "\n".join(lines)) if part)


def _champion(line: Line, crowning: Crowning, names: Sequence[str], pages: Mapping[int, str]) -> str:
    ended = line.rounds[crowning.round]
    measured = "".join(f", {_words(name)} {_value(ended.event['metrics'], name)}" for name in names[:1])
    return f"**Champion: {_link(ended, pages)}**, {BY[crowning.by]}{measured}"


def _rounds(line: Line, names: Sequence[str], pages: Mapping[int, str], crowned: Sequence[Crowning]) -> str:
    best = [crowning.round for crowning in crowned]
    rows = [["round", *map(_words, names), "kept", "note"], ["---", *["---:" for _ in names], "---:", "---"]]
    for index in sorted(line.rounds)[-LAST:]:
        ended = line.rounds[index]
        kept = ended.metrics().get("kept")
        mark = ["champion"] if index in best else []
        note = "; ".join([*mark, *([ended.event["note"]] if ended.event["note"] else [])]).replace("|", "\\|")
        cells = [_value(ended.event["metrics"], name) for name in names]
        rows.append([_link(ended, pages), *cells, "" if kept is None else f"{kept:,.0f}", note])
    left_out = len(line.rounds) - LAST
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return table + (f"\n\nThe last {LAST} rounds; {left_out} came before them." if left_out > 0 else "")


def _link(ended: EndedRound, pages: Mapping[int, str]) -> str:
    return f"[round {ended.index}]({pages[ended.number]})"


def _words(name: str) -> str:
    return name.replace("_at_", "@") if name.startswith(("pass_at_", "reward_at_")) else name.replace("_", " ")


def _value(metrics: Mapping[str, Any], name: str) -> str:
    """`31.3 % [26.3, 36.8]`: a rate with its interval, another number as it is."""
    if name not in metrics:
        return "–"
    if not 0 <= metrics[name] <= 1:
        return f"{metrics[name]:.4g}"
    low, high = metrics.get(f"{name}.low"), metrics.get(f"{name}.high")
    return f"{100 * metrics[name]:.1f} %" + (f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else "")
