"""The dials: Hydra's only door. A composed config is plain data; a wrong key or value is answered with the valid ones."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.identity import digest

Config = dict[str, Any]

OPERATIONS = {"name", "root", "rounds", "executor", "store", "tracker", "sweep", "budget", "patience"}
"""Keys that say where and how far a run goes. They may change on any resume; every other key is science and names the run."""

CHOICES = {"on_empty": ("stop", "continue"), "knobs": ("fixed", "temperature", "threshold", "both")}
"""Plain keys that take one of a few words."""

LOOP = {"seed", "on_empty"}
"""Plain keys that the loop reads. Any other plain key of science is for components, and has an effect only where one says `${KEY}`."""


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> Config:
    """The config that `KEY=VALUE …` gives, resolved; `config_dir` adds groups of the user's own."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    search = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    if config_dir and not config_dir.is_dir():
        raise InputError(f"--config-dir {config_dir} is not a folder", next="give a folder that holds GROUP/NAME.yaml files")
    try:
        OverridesParser.create().parse_overrides(list(overrides))
        with initialize_config_module("ratchet.configs", version_base="1.3"):
            composed = hydra_compose("config", overrides=[*search, *map(_without, overrides)])
            resolved = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
            config = _checked({str(key): value for key, value in dict(resolved or {}).items()})
            _check_effects(OmegaConf.to_container(composed, resolve=False), overrides, search)
    except OverrideParseException as error:
        raise InputError(f"cannot read the override {error.override!r}", allowed="KEY=VALUE, as in `seed=1` or `recipe=b_star`") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, overrides, search) from None
    return config


def _checked(config: Config) -> Config:
    """A config whose plain values are what they may be; those of components are checked when the components are built."""
    for key, least in (("seed", None), ("rounds", 0)):
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
            raise InputError(f"{key} has a wrong value", got=repr(value), allowed="a whole number" + (f" from {least}" if least is not None else ""))
    patience = config.get("patience")
    if patience is not None and (not isinstance(patience, int) or isinstance(patience, bool) or patience < 1):
        raise InputError("patience has a wrong value", got=repr(patience), allowed="a whole number of rounds from 1, or null to go on")
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            raise InputError(f"{key} has a wrong value", got=repr(config[key]), allowed=", ".join(choices))
    return config


def _check_effects(unresolved: Any, overrides: Sequence[str], search: Sequence[str]) -> None:
    """Refuse a plain key that the user gave and nothing in the config reads."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        plain = key in unresolved and not _is_group(key) and not isinstance(unresolved[key], Mapping)
        if plain and key not in OPERATIONS | LOOP and not _reads(unresolved, key):
            readers = _readers(key, overrides, search)
            raise InputError(
                f"{key} would have no effect: nothing in this config reads it",
                got=" ".join(overrides),
                allowed=f"with {' or '.join(readers)}" if readers else None,
                next=f"leave {key} out",
            )


def _reads(unresolved: Any, key: str) -> bool:
    """Whether a value in the config is `${key}`, or holds it."""
    return f"${{{key}}}" in str(unresolved)


def _readers(key: str, overrides: Sequence[str], search: Sequence[str]) -> list[str]:
    """The choices that make a config read a key: recipes if any does, else those of the first group that has one."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    def reads(group: str, choice: str) -> bool:
        others = [_without(override) for override in overrides if re.split(r"[.=]", override)[0] != group]
        try:
            composed = hydra_compose("config", overrides=[*search, *others, f"{group}={choice}"])
        except HydraException:  # it does not go with the others
            return False
        return _reads(OmegaConf.to_container(composed, resolve=False), key)

    for group, choices in sorted(_groups().items(), key=lambda item: item[0] != "recipe"):
        if readers := [f"{group}={choice}" for choice in choices if reads(group, choice)]:
            return readers
    return []


def _groups() -> dict[str, list[str]]:
    """The house's groups with their choices."""
    from importlib.resources import files

    folders = {entry.name: entry for entry in files("ratchet.configs").iterdir() if entry.is_dir()}
    found = {name: sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".yaml")) for name, folder in folders.items()}
    return {name: choices for name, choices in found.items() if choices}


def _without(override: str) -> str:
    """`GROUP=null`, which Hydra has as `~GROUP`."""
    key, _, value = override.partition("=")
    return f"~{key}" if value == "null" and _is_group(key) else override


def _explained(error: Exception, overrides: Sequence[str], search: Sequence[str]) -> InputError:
    """Hydra's complaint, with what would have been right."""
    text = str(error)
    if found := re.search(r"Could not find '(?P<group>[^/']+)/(?P<choice>[^']+)'", text):
        return _unknown_choice(found["group"], found["choice"], re.findall(r"^\t(\S+)$", text, re.M))
    if found := re.search(r"Could not override '(?P<key>[^']+)'", text):
        return _unknown_key(found["key"], overrides, search)
    missing = re.search(r"interpolation: Missing mandatory value: (?P<key>\S+)", text) or re.search(r"full_key: (?P<key>\S+)", text)
    if "Missing mandatory value" in text and (found := missing):
        return InputError(f"{found['key']} needs a value", next=f"add {found['key']}=…")
    if found := re.search(r"Interpolation key '(?P<read>[^']+)' not found\s+full_key: (?P<key>\S+)", text):
        what = f"{found['key']} is that of {found['read']}, which this config has not"
        raised = f"give {found['key']}=VALUE, or choose another {found['read'].split('.')[0]} or {found['key'].split('.')[0]} (GROUP=null for none)"
        return InputError(what, got=" ".join(overrides), next=raised)
    first = next(line for line in text.splitlines() if line.strip())
    return InputError(f"the config does not compose: {first}", got=" ".join(overrides))


def _unknown_choice(group: str, choice: str, available: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(choice, available, n=1)
    hint = f"did you mean {group}={close[0]}?" if close else f"choose one, or put {group}/{choice}.yaml into a folder given by --config-dir"
    return InputError(f"there is no {group} called {choice!r}", got=f"{group}={choice}", allowed=", ".join(available) or None, next=hint)


def _unknown_key(key: str, overrides: Sequence[str], search: Sequence[str]) -> InputError:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from omegaconf import DictConfig, OmegaConf

    bare = key.lstrip("+~")
    group = bare.partition(".")[0]
    if any(_without(override) == f"~{group}" for override in overrides) and group != bare:
        what = f"{bare} is a dial of {group}, which {group}=null leaves out"
        raise InputError(what, got=" ".join(overrides), next=f"leave out {group}=null, or {bare}")
    choices = [o for o in overrides if o.partition("=")[0].lstrip("+~") != bare and "." not in o.partition("=")[0]]
    with initialize_config_module("ratchet.configs", version_base="1.3"):
        node: Any = hydra_compose("config", overrides=[*search, *(_without(o) for o in choices if _is_group(o))])
    parent = ""
    for step in bare.split(".")[:-1]:
        if not isinstance(node, DictConfig) or step not in node:
            break
        node, parent = node[step], f"{parent}{step}."
    keys = [f"{parent}{name}" for name in (OmegaConf.to_container(node, resolve=False) or {})] if isinstance(node, DictConfig) else []
    close = difflib.get_close_matches(bare, keys, n=1)
    return InputError(
        f"there is no key {bare!r}",
        allowed=", ".join(sorted(k for k in keys if not k.endswith("_target_"))),
        next=f"did you mean {close[0]}?" if close else None,
    )


def _is_group(override: str) -> bool:
    from importlib.resources import files

    return files("ratchet.configs").joinpath(override.partition("=")[0]).is_dir()


def science(config: Mapping[str, Any]) -> Config:
    """The part of a config that decides results."""
    return {key: value for key, value in config.items() if key not in OPERATIONS}


def science_hash(config: Mapping[str, Any]) -> str:
    """Six hex digits that name the science of a config."""
    return digest(science(config))[:6]


def default_name(config: Mapping[str, Any]) -> str:
    """`<recipe>-<task>-<science>`: the same command finds the same run."""
    task = str((config.get("task") or {}).get("_target_", "no-task")).rsplit(".", 1)[-1].lower()
    return f"{config['recipe']['name']}-{task}-{science_hash(config)}"


def differing(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf at which two configs (or essences) differ, as (dotted key, one's value, other's value)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            yield from differing(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differing(a, b, f"{path}[{index}]")
    elif one != other:
        yield path, one, other
