"""No training row is a held-out item: the same prompt, or one that shares most of an item's n-grams.

Words are runs of letters and digits in any case, and every other sign by itself. An item matches a row exactly if their prompts have the
same words in the same order (and the same episode, where they have one); by n-grams if a row, prompt and completion, holds a share
`overlap` or more of the item's. N-grams that stand in more than one in ten items, and in more than two, are the template's and do not
count; an item that has none left, or fewer than `n` words, is matched exactly only. A match is a fact: no error is spent on it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ratchet.components.gates.evidence import Evidence, Finding
from ratchet.errors import InputError
from ratchet.identity import canonical
from ratchet.records import Demonstration, PreferencePair, Problem

WORD = re.compile(r"\w+|[^\w\s]")
Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contamination:
    n: int = 8
    overlap: float = 0.5
    max_items: int = 0
    """Held-out items that may be matched."""

    def __post_init__(self) -> None:
        if self.n < 2 or self.max_items < 0:
            raise InputError("n and max_items count something", got=(self.n, self.max_items), allowed="n from 2, max_items from 0")
        if not 0 < self.overlap <= 1:
            raise InputError("overlap is a share", got=self.overlap, allowed="more than 0, up to 1")

    def check(self, evidence: Evidence) -> Finding:
        if not evidence.examples or not evidence.held_out:
            return Finding(words="", unknown=["no training rows, or no held-out items, to be compared"])
        exact = self._exact(evidence.held_out, evidence.examples)
        close = self._close(evidence.held_out, evidence.examples) - exact
        numbers = {"exact": len(exact), "ngrams": len(close), "items": len({problem.id for problem in evidence.held_out})}
        found = f"{len(exact)} held-out items are among the training rows word by word, {len(close)} more by {self.n}-grams"
        if len(exact | close) <= self.max_items:
            return Finding(words=found, numbers=numbers)
        named = ", ".join(sorted(exact | close)[:3])
        return Finding(words=found, numbers=numbers, facts=[f"{found}, such as {named}"])

    def _exact(self, held_out: Sequence[Problem], examples: Sequence[Demonstration | PreferencePair]) -> set[str]:
        trained = {(words_of(row.prompt), _episode(row)) for row in examples}
        return {problem.id for problem in held_out if (words_of(problem.prompt), _episode(problem)) in trained}

    def _close(self, held_out: Sequence[Problem], examples: Sequence[Demonstration | PreferencePair]) -> set[str]:
        grams = {problem.id: set(self._grams(words_of(problem.prompt))) for problem in held_out if problem.episode is None}
        common = Counter(gram for mine in grams.values() for gram in mine)
        boilerplate = {gram for gram, count in common.items() if count > max(2, len(grams) / 10)}
        own = {id: mine - boilerplate for id, mine in grams.items() if mine - boilerplate}
        holders: dict[Words, list[str]] = {}
        for id, mine in own.items():
            for gram in mine:
                holders.setdefault(gram, []).append(id)
        matched: set[str] = set()
        for text in dict.fromkeys(_text(row) for row in examples):
            shared = Counter(id for gram in set(self._grams(words_of(text))) for id in holders.get(gram, ()))
            matched |= {id for id, count in shared.items() if count >= math.ceil(self.overlap * len(own[id]))}
        return matched

    def _grams(self, words: Words) -> Iterable[Words]:
        return (words[start : start + self.n] for start in range(len(words) - self.n + 1))


def words_of(text: str) -> Words:
    return tuple(WORD.findall(text.lower()))


def _episode(row: Problem | Demonstration | PreferencePair) -> bytes:
    return canonical(getattr(row, "episode", None))


def _text(row: Demonstration | PreferencePair) -> str:
    return f"{row.prompt} {row.completion}" if isinstance(row, Demonstration) else f"{row.prompt} {row.chosen}"
