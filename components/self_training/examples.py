"""Demonstrations as token rows, and the endless order in which a trainer reads them.

A prompt is tokenized exactly as a policy is prompted when it samples, so that a completion is learnt in the context it came from.
The order is a function of a seed and a cursor: the rows over and over, each pass shuffled anew. Nothing is ever truncated: an
example that is too long is left out and counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ratchet.components.policies.checkpoint import Prompting
from ratchet.errors import NothingSelected, RatchetError
from ratchet.identity import derive_seed, digest
from ratchet.records import Demonstration

IGNORED = -100
"""The label of a token that carries no loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Token rows with their labels (prompt masked), and how many examples were too long to be among them."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    too_long: int

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def digest(self) -> str:
        return digest([self.input_ids, self.labels])

    def targets(self, order: Iterable[int]) -> int:
        """Tokens that carry a loss, over the rows of an order."""
        counts = [sum(label != IGNORED for label in labels) for labels in self.labels]
        return sum(counts[row] for row in order)


def tokens_of(prompt: str, completion: str, tokenizer: Any, prompting: Prompting) -> tuple[list[int], list[int]]:
    """A prompt's tokens as the sampler makes them, and those of the completion that follows, without an end token.

    Tokenized together, the two may merge across their border; then the prompt's own tokens win, because they are what the policy saw.
    """
    text, special = prompting.text(tokenizer, prompt), prompting.template == "plain"
    before: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    joint: list[int] = tokenizer(text + completion, add_special_tokens=special)["input_ids"]
    after = joint[len(before) :] if joint[: len(before)] == before else tokenizer(completion, add_special_tokens=False)["input_ids"]
    return before, after


def encode(examples: Sequence[Demonstration], tokenizer: Any, prompting: Prompting, *, max_length: int) -> Rows:
    """Prompt + completion + end token of every example that fits into `max_length` tokens; the loss is on the completion and its end."""
    if not examples:
        raise NothingSelected("there is no demonstration to train on")
    pairs = [tokens_of(example.prompt, example.completion, tokenizer, prompting) for example in examples]
    whole = [(before, [*after, tokenizer.eos_token_id]) for before, after in pairs]
    fitting = [(before, after) for before, after in whole if len(before) + len(after) <= max_length]
    if not fitting:
        shortest = min(len(before) + len(after) for before, after in whole)
        raise RatchetError(f"all {len(examples)} demonstrations are longer than max_length={max_length} tokens (the shortest: {shortest})")
    return Rows(
        input_ids=[before + after for before, after in fitting],
        labels=[[IGNORED] * len(before) + after for before, after in fitting],
        too_long=len(whole) - len(fitting),
    )


def reading_order(rows: int, *, seed: int, cursor: int, count: int) -> list[int]:
    """The `count` row numbers that follow the first `cursor` of the endless order."""
    import numpy

    first, last = cursor // rows, (cursor + count - 1) // rows
    passes = [numpy.random.default_rng(derive_seed(seed, "pass", number)).permutation(rows) for number in range(first, last + 1)]
    start = cursor - first * rows
    return [int(row) for row in numpy.concatenate(passes)[start : start + count]]
