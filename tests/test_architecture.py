"""The house holds: imports run one way, each vendor has one door, every dial fits its part, and what is installed is what is here."""

import ast
import dataclasses
import gc
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.errors import InputError
from ratchet.flows.build import build
from ratchet.flows.compose import compose
from ratchet.identity import construct, describe, locate

HOUSE = Path(__file__).parents[1]
CONFIGS = HOUSE / "configs"
LAYERS = ("ratchet", "components", "infra", "flows")

MAY_SEE = {"ratchet": {"ratchet"}, "components": {"ratchet", "components"}, "infra": {"ratchet", "infra"}, "flows": set(LAYERS)}
"""Layer → the layers of the house that it may import."""

DOORS = {
    "flows": {"prefect", "hydra", "omegaconf"},
    "infra": {"submitit", "mlflow", "boto3", "botocore"},
    "components": {
        "gymnasium",
        "h5py",
        "minigrid",
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "math_verify",
        "latex2sympy2_extended",
        "datasets",
        "safetensors",
        "tokenizers",
    },
}
"""Layer → the vendors that only it may import."""

SEEN_AT_TOP = {"ratchet": set[str](), "components": set[str](), "infra": set[str](), "flows": {"rich"}}
"""Layer → third parties that a module may import when it is imported itself; everything else waits for the function that needs it."""


@dataclasses.dataclass(frozen=True)
class Import:
    path: Path
    line: int
    name: str
    at_top: bool

    @property
    def layer(self) -> str:
        return self.path.relative_to(HOUSE).parts[0]

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    @property
    def house(self) -> str | None:
        """The layer of the house that it names, if it names one."""
        if self.top != "ratchet":
            return None
        second = self.name.split(".")[1] if "." in self.name else ""
        return second if second in (*LAYERS, "configs") else "ratchet"

    def __str__(self) -> str:
        return f"{self.path.relative_to(HOUSE)}:{self.line} imports {self.name}"


def parsed(path: Path) -> ast.Module:
    """The file's syntax tree. A garbage collection in the middle may run code that parses too, which Python < 3.11.8 answers with
    `SystemError: AST constructor recursion depth mismatch` (python/cpython#106905)."""
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    finally:
        gc.enable()


def imports_of(path: Path) -> Iterator[Import]:
    tree = parsed(path)
    inside = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(function)}
    typing_only = {id(n) for test in ast.walk(tree) if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test) for n in ast.walk(test)}
    for node in ast.walk(tree):
        at_top = id(node) not in inside | typing_only
        if isinstance(node, ast.Import):
            yield from (Import(path, node.lineno, alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "ratchet" else [module]
            yield from (Import(path, node.lineno, name, at_top) for name in names)


IMPORTS = [found for layer in LAYERS for path in sorted((HOUSE / layer).rglob("*.py")) for found in imports_of(path)]


def test_imports_run_one_way() -> None:
    assert [] == [str(found) for found in IMPORTS if found.house and found.house != "configs" and found.house not in MAY_SEE[found.layer]]


def test_the_words_need_nothing_but_the_standard_library() -> None:
    foreign = [str(found) for found in IMPORTS if found.layer == "ratchet" and found.top not in sys.stdlib_module_names | {"ratchet"}]
    assert [] == foreign


@pytest.mark.parametrize("layer", DOORS)
def test_each_vendor_has_one_door(layer: str) -> None:
    assert [] == [str(found) for found in IMPORTS if found.top in DOORS[layer] and found.layer != layer]


def test_vendors_are_imported_where_they_are_used_and_not_before() -> None:
    """Which is why the command line answers at once and a job imports only what its verb needs."""
    known = sys.stdlib_module_names | {"ratchet"}
    assert [] == [str(found) for found in IMPORTS if found.at_top and found.top not in known | SEEN_AT_TOP[found.layer]]


def test_the_bare_names_are_imported_nowhere() -> None:
    """A `components/` in a job's working directory would shadow them."""
    tests = [found for path in (HOUSE / "tests").rglob("*.py") for found in imports_of(path)]
    assert [] == [str(found) for found in [*IMPORTS, *tests] if found.top in {"components", "configs", "flows", "infra"}]


def test_the_hands_of_infra_know_only_infra_and_the_words() -> None:
    allowed = sys.stdlib_module_names | {"ratchet"} | DOORS["infra"] | {"matplotlib", "sqlalchemy"}  # MLflow's figures and errors
    assert [] == [str(found) for found in IMPORTS if found.layer == "infra" and found.top not in allowed]


PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())


def test_the_packages_that_install_are_the_folders_that_are_here() -> None:
    folders = {path.parent.relative_to(HOUSE).parts for layer in (*LAYERS, "configs") for path in (HOUSE / layer).rglob("__init__.py")}
    names = {".".join(parts if parts[0] == "ratchet" else ("ratchet", *parts)) for parts in folders}
    assert sorted(names) == sorted(PROJECT["tool"]["setuptools"]["packages"])
    without = {path.parent for layer in LAYERS for path in (HOUSE / layer).rglob("*.py") if not (path.parent / "__init__.py").exists()}
    assert set() == without, "every folder with a module is a package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what is here, installed alone into an empty folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in (*LAYERS, "configs"):
        shutil.copytree(HOUSE / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(HOUSE / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return target


EVERY_MODULE = """
import importlib, pathlib, pkgutil, ratchet, sys
target = pathlib.Path(sys.argv[1])
assert pathlib.Path(ratchet.__file__).is_relative_to(target), ratchet.__file__
for found in pkgutil.walk_packages(ratchet.__path__, "ratchet."):
    module = importlib.import_module(found.name)
    assert pathlib.Path(module.__file__).is_relative_to(target), module.__file__
    print(found.name)
from importlib.resources import files
print(*(str(path.name) for path in files("ratchet.configs").iterdir()))
"""


@pytest.mark.parametrize("where", ["/", str(HOUSE)], ids=["from the root folder", "from the clone"])
def test_the_wheel_holds_every_module_and_every_dial(installed: Path, where: str) -> None:
    """Also from the clone, where `./ratchet` would shadow what is installed: jobs are started with `-P` for that."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", EVERY_MODULE, str(installed)], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert 0 == done.returncode, done.stderr
    modules = {path.relative_to(HOUSE).with_suffix("").as_posix().replace("/", ".") for layer in LAYERS for path in (HOUSE / layer).rglob("*.py")}
    wanted = {name.removesuffix(".__init__") for name in modules}
    assert {name if name.startswith("ratchet") else f"ratchet.{name}" for name in wanted} - {"ratchet"} <= set(done.stdout.split())
    assert "config.yaml" in done.stdout.split()
    assert {path.name for path in CONFIGS.rglob("*.yaml")} == {path.name for path in (installed / "ratchet" / "configs").rglob("*.yaml")}


GROUPS = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name not in ("__pycache__",))
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]
HOUSES = ["environment=vln_graph", "environment.graphs=/"]
FILLED = {
    ("environment", "vln_graph"): HOUSES[1:],
    ("experiment", "sid_reverie"): ["reverie=/"],
    ("instructions", "reverie"): [*HOUSES, "instructions.task.train_file=/"],
    ("policy", "hf"): ["policy.path=/"],
    ("task", "goal_pairs"): HOUSES,
    ("task", "gsm8k"): ["task.train_file=/"],
    ("task", "instructions"): [*HOUSES, "task.train_file=/"],
    ("task", "jsonl"): ["task.train_file=/"],
    ("store", "s3"): ["store.uri=s3://bucket/prefix"],
}
"""What a user must give, the last of it first asked for."""

RECIPE_OF = {("selection", "explored"): "sid", ("selection", "well_followed"): "srdf"}
"""Choices that do not go with the default recipe, whose controller reads the selector's rule."""


def components_in(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from components_in(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from components_in(value, f"{key}[{index}]")


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda value: value)
def test_every_choice_of_every_group_composes_and_builds(group: str, choice: str) -> None:
    world = ["environment=babyai"] if "${environment}" in (CONFIGS / group / f"{choice}.yaml").read_text() else []
    recipe = [f"recipe={found}"] if (found := RECIPE_OF.get((group, choice))) else []
    filled = FILLED.get((group, choice), [*recipe, *([] if recipe else world)])
    config = compose([f"{group}={choice}", *filled])
    built = build(config if group in ("recipe", "experiment") else config[group], group)
    for key, node in components_in(config):
        part = build(node, key)
        given = {name for name in node if name != "_target_"}
        fields = {field.name for field in dataclasses.fields(locate(node["_target_"])) if field.init and not field.name.startswith("_")}
        assert fields == given, f"{key} names every field with its value, and no other"
        if not key.startswith((".executor", ".store", ".tracker")) and (group, choice) not in FILLED:
            assert part == construct(describe(part)), f"{key} can be sent to a job"
    assert built is not None


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_of_dials_says_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    comment = lines[1] if lines[0] == "# @package _global_" else lines[0]
    assert comment.startswith("# ")


class Strict(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML lets win silently."""


def _no_twins(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands twice"
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_twins)


@pytest.mark.parametrize("folder", [CONFIGS, HOUSE / "tests" / "toys" / "configs"], ids=["the house's", "the toys'"])
def test_no_key_stands_twice(folder: Path) -> None:
    for path in folder.rglob("*.yaml"):
        yaml.load(path.read_text(), Strict)
    with pytest.raises(AssertionError, match="stands twice"):
        yaml.load("a: 1\na: 2\n", Strict)


def test_a_dial_that_must_be_given_is_asked_for() -> None:
    for (group, choice), filled in FILLED.items():
        *others, missing = filled
        with pytest.raises(InputError, match=f"{missing.partition('=')[0]} needs a value"):
            compose([f"{group}={choice}", *others])


def test_components_are_frozen_keyword_only_dataclasses_with_a_verb() -> None:
    targets = {node["_target_"] for _, node in components_in([yaml.safe_load(path.read_text()) for path in CONFIGS.rglob("*.yaml")])}
    for target in sorted(name for name in targets if name.startswith("ratchet.components.")):
        part = locate(target)
        assert part.__dataclass_params__.frozen, target
        assert all(field.kw_only for field in dataclasses.fields(part)), target
        assert (object,) == part.__bases__, f"{target} inherits from nothing"


def test_nothing_says_where_it_was_written() -> None:
    """No machine's paths in what ships."""
    shipped = [path for layer in (*LAYERS, "configs") for path in (HOUSE / layer).rglob("*") if path.suffix in (".py", ".yaml")]
    assert [] == [str(path) for path in shipped if str(HOUSE) + "/" in path.read_text()]
