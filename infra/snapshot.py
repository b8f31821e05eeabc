"""A copy of the code that jobs run, so that a job which starts tomorrow runs what its driver ran today.

Copied are `ratchet` and the modules of the user's own that components come from; installed packages are left where they are, since
their versions are pinned by the environment. A snapshot is named by its content: equal code is copied once.
"""

import importlib.util
import shutil
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from ratchet.errors import InputError
from ratchet.identity import digest, file_sha256

ROOMS = ("components", "configs", "flows", "infra")
"""Parts of `ratchet` that an editable install keeps beside it."""

LEFT_OUT = {"__pycache__", ".git", ".venv", "node_modules"}


def snapshot(modules: Iterable[str], folder: Path) -> Path:
    """A folder for PYTHONPATH, under `folder`, that holds the modules' code as it was when this process first asked for it."""
    return _taken(frozenset(modules), folder)


@cache  # a driver goes on with the code that it began with, whatever is edited meanwhile; the next command sees the edits
def _taken(modules: frozenset[str], folder: Path) -> Path:
    files = dict(_files({"ratchet", *modules}))
    target = folder / digest({str(name): file_sha256(path) for name, path in files.items()})
    if target.is_dir():
        return target
    draft = folder / f".{uuid.uuid4().hex}"
    for name, path in files.items():
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, draft / name)
    with suppress(OSError):  # another driver made the same one meanwhile
        draft.rename(target)
    shutil.rmtree(draft, ignore_errors=True)
    return target


def _files(modules: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    """(place in the snapshot, where it is now) of every file."""
    for module in sorted(modules):
        spec = importlib.util.find_spec(module)
        if spec is None:
            raise InputError(f"cannot find the module {module}", next="a module of your own must be on PYTHONPATH or installed")
        if module == "ratchet":
            yield from _package("ratchet", Path(str(spec.origin)).parent)
            for room in ROOMS:
                found = importlib.util.find_spec(f"ratchet.{room}")
                if found and found.origin:
                    yield from _package(f"ratchet/{room}", Path(found.origin).parent)
        elif spec.origin and not _installed(Path(spec.origin)):
            origin = Path(spec.origin)
            yield from _package(module, origin.parent) if origin.name == "__init__.py" else [(Path(origin.name), origin)]
        elif spec.origin is None:  # a namespace package: a folder without __init__.py
            for place in spec.submodule_search_locations or ():
                yield from _package(module, Path(place))


def _package(name: str, folder: Path) -> Iterator[tuple[Path, Path]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not LEFT_OUT & set(inside.parts):
            yield Path(name) / inside, path


def _installed(path: Path) -> bool:
    return any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib"))
