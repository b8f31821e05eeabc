"""The process in which `math.py` runs math-verify: reads a gold and an answer, says what math-verify makes of them.

    python -P -m ratchet.components.verification.math_worker PIPE PARENT

math-verify's own time limits are off. They are alarms, which cannot interrupt a power of big integers, and which it turns into "not
equal"; the caller's limit kills the process instead. Errors are told apart here as far as math-verify lets them out: what it cannot
parse is unparsed, what it cannot compare is not equal, running out of memory ends the process.
"""

import json
import logging
import re
import sys
import warnings
from functools import lru_cache
from typing import Any

from ratchet.components.verification.workers import connection_to_caller, requests_on

LATEX = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")
"""Text that says itself where its mathematics is."""
QUANTITY = re.compile(r"-?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?\s?%?(\s+[A-Za-z]{3,}\D*|\.)?", re.ASCII)
"""A number, perhaps with a unit in words."""


def main() -> None:
    connection = connection_to_caller(sys.argv[1:])
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    judge("$x$", r"$\frac{1}{2}$", isolated=True)  # the first formula costs a second of imports and tables
    for request in requests_on(connection):
        connection.send_bytes(json.dumps(judge(*request)).encode())


def judge(gold: str, answer: str | None, isolated: bool) -> tuple[str, str | None]:
    """Outcome, and the answer as math-verify read it; without an answer, whether the gold can be parsed at all."""
    from math_verify import verify

    expected = expected_of(gold)
    if answer is None:
        return ("correct" if expected else "unparsed"), None
    found = parsed(answer, isolated=isolated)
    if not found:
        return "unparsed", None
    try:
        equal = verify(expected, found, timeout_seconds=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - sympy raises anything over what it cannot compare; math-verify itself takes that for unequal
        equal = False
    return ("correct" if equal else "wrong"), str(found[-1])


@lru_cache(maxsize=1024)
def expected_of(gold: str) -> list[Any]:
    """A parsed gold, kept because a problem's rollouts come one after the other."""
    return parsed(gold, isolated=True)


def parsed(text: str, *, isolated: bool) -> list[Any]:
    """The expressions in a text with, last, what they were read from; nothing if no expression can be made of it."""
    from math_verify import parse

    try:
        found = parse(as_mathematics(text) if isolated else text, parsing_timeout=None, raise_on_error=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a policy can write anything, and the parsers raise anything over it
        return []
    return list(found) if any(not isinstance(item, str) for item in found) else []


def as_mathematics(text: str) -> str:
    """An answer by itself, marked as a formula unless it is a plain quantity; else math-verify reads `2\\sqrt{3}` as 2 and `1,2` as 1.2."""
    bare = text.strip().strip("*`").strip()
    return bare if LATEX.search(bare) or QUANTITY.fullmatch(bare) else f"${bare}$"


if __name__ == "__main__":
    main()
