"""The rows of a JSON Lines file, plain or gzipped; whatever is wrong is named by file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.records import read_rows


def rows_of(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Every row with its line number; at least one."""
    if not path.is_file():
        raise InputError(f"{path} is not a file", allowed="JSON Lines, as .jsonl or .jsonl.gz", next="give the path of one that exists")
    try:
        rows = list(_unzipped(path) if path.suffix == ".gz" else read_rows(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start} of a block)", next="convert it to UTF-8") from None
    if not rows:
        raise InputError(f"{path} is empty", allowed="one JSON object a line")
    return rows


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """A value as text; numbers are taken as they are written."""
    if key not in row:
        raise InputError(f"{where} has no key {key!r}", got=", ".join(sorted(row)) or "no keys", next="name the key that holds it, or mend the row")
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: {key!r} is neither text nor a number", got=repr(value)[:80], allowed='"text" or a number')
    return str(value)


def _unzipped(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, _object(line, f"{path}:{number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1} cannot be unzipped ({error})", next="fetch the file again") from None


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error})", got=repr(line[:80]), next="mend or remove the line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object", got=repr(line[:80]), allowed='{"key": value, …}')
    return row
