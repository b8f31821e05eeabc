"""The rows that stages read and write: one JSON object a line, keys sorted, absent values left out.

Equal rows are equal bytes, so the digest of a file is the digest of what it says.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ratchet.errors import InputError

Outcome = Literal["correct", "wrong", "unparsed", "timeout", "crashed"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A prompt and, where they are known, its reference answer and a worked solution."""

    id: str
    prompt: str
    reference: str | None = None
    solution: str | None = None
    difficulty: int | None = None
    shown: str | None = None
    """What the policy is shown in place of `prompt`, such as the prompt with a hint (STaR's rationalisation)."""
    episode: Mapping[str, Any] | None = None
    """What an environment opens, as plain data; the prompt is then what the policy is told to reach there."""
    group: str | None = None
    """What it belongs to, such as a scan. Problems of a group stand together, and some synthesizers take a group a shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One completion sampled from a policy; `outcome` and `reward` are set once it is verified."""

    problem_id: str
    sample: int
    """0 … K-1 within its problem."""
    prompt: str
    """The problem's own prompt, without any hint that was shown."""
    completion: str
    """Decoded text: no prompt, no end token, no padding."""
    reference: str | None = None
    tokens: int = 0
    """Tokens sampled, the end token included, padding not."""
    finished: bool = True
    """False if it was cut at the token limit."""
    entropy: float | None = None
    """Mean entropy of the sampling distribution over its tokens, in nats."""
    answer: str | None = None
    """What the verifier read as the answer."""
    outcome: Outcome | None = None
    reward: float | None = None
    scores: Mapping[str, float] | None = None
    """The named parts that add up to `reward`."""
    episode: Mapping[str, Any] | None = None
    """The problem's; the completion is then the actions taken in it, parted by blanks."""
    group: str | None = None
    """The problem's."""
    source: str | None = None
    """Who made it, if not the policy: `teacher`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """A completion to imitate (TRL's prompt-completion shape)."""

    prompt: str
    completion: str
    problem_id: str | None = None
    label: float | None = None
    """A target in [0, 1] where a trainer fits a value to the text instead of imitating it."""
    episode: Mapping[str, Any] | None = None
    """The problem's; the completion is then the actions to take in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """Two completions of one prompt (TRL's preference shape)."""

    prompt: str
    chosen: str
    rejected: str
    problem_id: str | None = None


Record = Problem | Rollout | Demonstration | PreferencePair
KINDS: dict[str, type[Record]] = {"problems": Problem, "rollouts": Rollout, "demonstrations": Demonstration, "pairs": PreferencePair}

R = TypeVar("R", bound=Record)


def kind_of(record: Record) -> str:
    """The name of a record's kind, as manifests have it."""
    return next(name for name, kind in KINDS.items() if isinstance(record, kind))


def line_of(record: Record) -> str:
    """One record as one canonical line, without the newline."""
    row = {key: value for key, value in asdict(record).items() if value is not None}
    return json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every line of a JSON Lines file with its number; a torn or foreign line is named by file and line."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number} is not JSON ({error})", got=repr(line[:80]), next="mend or remove the line") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number} is not a JSON object", got=repr(line[:80]), allowed='{"key": value, …}')
            yield number, row


def read(path: Path, kind: type[R]) -> Iterator[R]:
    """The records of a file that `write` made."""
    known = {field.name for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING}
    for number, row in read_rows(path):
        if unknown := row.keys() - known:
            raise InputError(f"{path}:{number} has keys that a {kind.__name__} has not", got=sorted(unknown), allowed=sorted(known))
        if missing := required - row.keys():
            raise InputError(f"{path}:{number} lacks keys of a {kind.__name__}", got=sorted(row), allowed=f"also {sorted(missing)}")
        yield kind(**row)


def write(path: Path, records: Iterable[Record]) -> int:
    """Stream records to a file; return how many there were."""
    count = 0
    with path.open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(line_of(record) + "\n")
            count += 1
    return count
