"""`ratchet compare … --report FILE`: a comparison as one self-contained HTML page, for people who have no access to the run.

Whatever plot is shown has its numbers under it. What could not be read is said where it would stand.
"""

import uuid
from contextlib import suppress
from pathlib import Path

from ratchet.errors import InputError
from ratchet.flows import report_making as making
from ratchet.flows import report_results as results
from ratchet.flows.comparison import Comparison
from ratchet.flows.report_page import STYLE, TEMPLATE
from ratchet.flows.report_parts import EMPTY

SECTIONS = (
    results.verdicts,
    results.rounds,
    results.curves,
    results.pass_at_k,
    making.balance,
    results.diversity,
    making.flow,
    making.time,
    making.changed,
    making.lineage,
)

METHOD = (
    "Single answers: McNemar's test (exact below 25 differing items), Bonett and Price's interval. Rates: paired bootstrap, 10,000 resamples. "
    "Correction: Holm, over all comparisons of a metric. Curves' intervals are those of the evaluation. At equal budget a run stands by the "
    "last round that it had finished within it; evaluation costs nothing, and work that was found instead of made costs what it took."
)


def write_report(comparison: Comparison, file: Path) -> None:
    """Write the page, whole or not at all; InputError if it cannot be written there."""
    if file.is_dir():
        raise InputError(f"the report {file} is a folder", next="give a file: --report PATH.html")
    page = render(comparison)
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise InputError(f"cannot write the report {file}: {error.strerror}", next="give another file: --report PATH.html") from None


def render(comparison: Comparison) -> str:
    """The page as text."""
    from jinja2 import Environment

    runs = comparison.runs
    sections = [EMPTY | section for make in SECTIONS if (section := make(comparison))]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    names = list(dict.fromkeys(run.name for run in runs))
    title = names[0] if len(names) == 1 else f"{names[0]} against {', '.join(names[1:])}"
    foot = [note[:1].upper() + note[1:] + "." for note in comparison.notes] + [METHOD]
    return environment.from_string(TEMPLATE).render(style=STYLE, title=title, lead=_lead(comparison), sections=sections, foot=foot)


def _lead(comparison: Comparison) -> str:
    words = []
    for run in comparison.runs:
        config = run.summary.config
        recipe = (config.get("recipe") or {}).get("name", "a recipe")
        rounds = f"{len(run.rounds) - 1} rounds" if run.rounds else "no round yet"
        words.append(f"{run.name}: {recipe}, seed {run.summary.seed}, {rounds}, {run.summary.status}")
    return " · ".join(dict.fromkeys(words))
