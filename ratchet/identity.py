"""What a thing *is*, as one hash: canonical JSON, components described by name and fields, external files by content.

A component is a frozen dataclass. Its description is its dotted name, its `version` (a class attribute, 1 if absent) and its
fields; nested components are described in turn. Sequences are tuples. A field that holds a `pathlib.Path` is an external file or
folder: its *content* stands in the identity, so that moving a file changes nothing and editing it changes everything after it.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ratchet.errors import InputError

Description = dict[str, Any]


def canonical(value: object) -> bytes:
    """JSON with one spelling: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: object) -> str:
    """The identity of a JSON value: 128 bits of SHA-256, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_sha256(path: Path) -> str:
    """SHA-256 of an external file, or of a folder's relative names and contents."""
    if not path.exists():
        raise InputError(f"{path} does not exist", next="give the path of a file or folder that does")
    members = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if path.is_file():
        return _sha256_unless_touched(path, path.stat().st_mtime_ns, path.stat().st_size)
    return digest({str(m.relative_to(path)): _sha256_unless_touched(m, m.stat().st_mtime_ns, m.stat().st_size) for m in members})


@lru_cache(maxsize=4096)
def _sha256_unless_touched(path: Path, mtime_ns: int, size: int) -> str:
    return file_sha256(path)


def derive_seed(*parts: object) -> int:
    """A 31-bit seed from anything canonical; the same parts give the same seed on every machine."""
    return int.from_bytes(hashlib.sha256(canonical(list(parts))).digest()[:4], "big") >> 1


def decimal_key(value: float | int | str) -> str:
    """A grid value as its one canonical decimal: 0.50 and 0.5 are `0.5`, 1.0 is `1`."""
    return value if isinstance(value, str) else f"{float(value):.10f}".rstrip("0").rstrip(".")


def describe(component: Any) -> Description:
    """A component as plain data from which `construct` makes an equal one."""
    cls = type(component)
    values = {field.name: _plain(getattr(component, field.name)) for field in dataclasses.fields(component)}
    return {"component": f"{cls.__module__}.{cls.__qualname__}", "version": getattr(cls, "version", 1), "fields": values}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe(value)
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"a component's field cannot hold a {type(value).__name__}", got=repr(value), allowed="number, text, tuple, mapping, path, component"
    )


def identity_of(description: Any) -> Any:
    """A description as it enters an identity: paths replaced by the digest of what they hold, whole floats by integers."""
    if isinstance(description, dict):
        if set(description) == {"path"}:
            return {"sha256": source_sha256(Path(description["path"]))}
        return {key: identity_of(value) for key, value in description.items()}
    if isinstance(description, list):
        return [identity_of(value) for value in description]
    if isinstance(description, float) and description.is_integer():
        return int(description)
    return description


def construct(description: Any) -> Any:
    """The component that a description describes."""
    if isinstance(description, dict):
        if set(description) == {"component", "version", "fields"}:
            cls = locate(description["component"])
            found = getattr(cls, "version", 1)
            if found != description["version"]:
                raise InputError(
                    f"{description['component']} is version {found}, the stage was asked of version {description['version']}",
                    next="run the command again",
                )
            return cls(**{key: construct(value) for key, value in description["fields"].items()})
        if set(description) == {"path"}:
            return Path(description["path"])
        return {key: construct(value) for key, value in description.items()}
    if isinstance(description, list):
        return tuple(construct(value) for value in description)
    return description


def locate(dotted: str) -> Any:
    """The object that a dotted name names."""
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"cannot import {dotted}: {error}", next="check the spelling; a module of your own must be on PYTHONPATH or installed"
        ) from error


def source_digest(component: Any) -> str:
    """Digest of the source text of the module that defines a component; recorded, not part of the identity."""
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(type(component)) or type(component)).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return "unknown"
