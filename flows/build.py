"""From a composed config to the components it names: the config is the constructor, checked field by field."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.identity import locate


def build(node: Any, key: str = "") -> Any:
    """A config node as what it names: a component where there is a `_target_`, else a mapping, tuple or value of such."""
    if isinstance(node, Mapping) and "_target_" in node:
        return _component(node, key)
    if isinstance(node, Mapping):
        return {name: build(value, _join(key, name)) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return tuple(build(value, f"{key}[{index}]") for index, value in enumerate(node))
    return node


def _component(node: Mapping[str, Any], key: str) -> Any:
    cls = locate(node["_target_"])
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise InputError(f"{key}._target_ must name a dataclass", got=node["_target_"], next="components are frozen dataclasses with one verb")
    known = {field.name: field for field in dataclasses.fields(cls) if field.init and not field.name.startswith("_")}
    given = {name: build(value, _join(key, name)) for name, value in node.items() if name != "_target_"}
    if unknown := given.keys() - known:
        raise InputError(f"{cls.__name__} ({key}) has no field {sorted(unknown)[0]!r}", allowed=", ".join(known))
    required = {n for n, f in known.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    if missing := required - given.keys():
        raise InputError(f"{cls.__name__} needs a value for {_join(key, sorted(missing)[0])}", next=f"add {_join(key, sorted(missing)[0])}=…")
    hints = typing.get_type_hints(cls)
    checked = {name: _checked(value, hints[name], _join(key, name)) for name, value in given.items()}
    try:
        return cls(**checked)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _checked(value: Any, hint: Any, key: str) -> Any:
    """A value as its field's type has it; numbers and texts are converted where nothing is lost."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value  # a nested component: built and checked by itself
    if hint is Any:
        return value
    choices = set(typing.get_args(hint)) or {hint}
    if value is None and type(None) in choices:
        return None
    if isinstance(value, str) and value and Path in choices and str not in choices:
        return Path(value).expanduser().resolve()  # jobs run elsewhere
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        allowed = problem.get("ctx", {}).get("expected") or getattr(hint, "__name__", str(hint))
        raise InputError(f"{key} has a wrong value: {problem['msg']}", got=repr(value), allowed=allowed) from None


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)
