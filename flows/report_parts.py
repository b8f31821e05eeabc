"""The pieces that a report's sections are made of: plain data that the page's template shows."""

import re
from collections.abc import Sequence
from typing import Any

from ratchet.flows import report_plots as plots
from ratchet.flows.measured import Measured
from ratchet.flows.report_plots import Ink

Section = dict[str, Any]
"""`id`, `title`, and of what `EMPTY` has what it shows."""

EMPTY: Section = {
    **{"words": "", "ramp": None, "small": False},
    **dict.fromkeys(("legend", "verdicts", "tables", "groups", "changes", "lineages", "notes"), ()),
}


def table_of(
    header: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "", best: int | None = None, words: bool = False
) -> dict[str, Any]:
    return {"header": header, "rows": rows, "caption": caption, "best": best, "words": words}


def figure_of(title: str, svg: str, alt: str, table: dict[str, Any], caption: str = "") -> dict[str, Any]:
    return {"title": title, "svg": svg, "alt": alt, "table": table, "caption": caption}


def sentence(words: str) -> str:
    """Words as a sentence, in which no number is torn from what it is of."""
    return re.sub(r"(p) ([<=]) ", "\\1\u00a0\\2\u00a0", words[:1].upper() + words[1:] + ".")


def number_words(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def legend(runs: Sequence[Measured]) -> list[tuple[str, str]]:
    return [(run.name, plots.css(Ink.series(number))) for number, run in enumerate(runs)] if len(runs) > 1 else []
