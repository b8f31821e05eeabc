"""The dials: what composes, what is science, and what a config builds."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from ratchet.errors import InputError
from ratchet.flows.build import build
from ratchet.flows.compose import OPERATIONS, compose, default_name, differing, science, science_hash
from tests.toys.drive import HOUSE
from tests.toys.parts import Judge, Thermostat, Toss

TOYS = HOUSE / "tests" / "toys" / "configs"


def toy(*words: str) -> dict[str, Any]:
    return compose(["experiment=toy", *words], TOYS)


def test_an_override_lands_where_it_says_and_the_config_is_plain_data() -> None:
    config = toy("synthesis.samples=9", "rounds=3")
    assert (9, 3, "tests.toys.parts.Toss") == (config["synthesis"]["samples"], config["rounds"], config["synthesis"]["_target_"])
    assert all(type(config[key]) in (dict, str, int, float, type(None)) for key in config)


def test_a_group_of_ones_own_is_found_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "synthesis").mkdir()
    (tmp_path / "synthesis" / "mine.yaml").write_text("_target_: tests.toys.parts.Toss\nsamples: 2\n")
    assert 2 == compose(["synthesis=mine"], tmp_path)["synthesis"]["samples"]


def test_composing_twice_gives_the_same_and_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert toy() == toy()
    assert [] == list(tmp_path.iterdir()), "no outputs/ folder, no log"


@pytest.mark.parametrize("word", ["executor=local", "rounds=9", "root=/elsewhere", "executor.cpus_per_task=7", "name=x"])
def test_operations_do_not_name_the_run(word: str) -> None:
    assert word.partition("=")[0].partition(".")[0] in OPERATIONS
    assert default_name(toy()) == default_name(toy(word))


@pytest.mark.parametrize("word", ["seed=1", "synthesis.samples=5", "recipe=rest_em", "on_empty=continue", "control.temperatures=[0.5]"])
def test_science_names_the_run(word: str) -> None:
    assert science_hash(toy()) != science_hash(toy(word))


def test_a_runs_name_says_recipe_and_task() -> None:
    assert f"b_star-sums-{science_hash(toy())}" == default_name(toy())
    assert default_name(toy("recipe=star")).startswith("star-sums-")


def test_differences_are_named_leaf_by_leaf() -> None:
    one = {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": 5}
    other = {"a": {"b": 1, "c": [1, {"d": 3}]}, "f": 6}
    assert [("a.c[1].d", 2, 3), ("e", 5, None), ("f", None, 6)] == list(differing(one, other))
    assert [("x", [1], [1, 2])] == list(differing({"x": [1]}, {"x": [1, 2]}))
    assert [] == list(differing(one, one))


@dataclass(frozen=True, kw_only=True)
class Part:
    count: int = 1
    rate: float = 0.5
    name: str = "x"
    choice: Literal["a", "b"] = "a"
    values: tuple[float, ...] = ()
    file: Path | None = None
    inner: Any = None
    many: tuple[Any, ...] = ()
    _hidden: int = dataclasses.field(default=0, repr=False)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError("count must not be negative", got=self.count)


@dataclass(frozen=True, kw_only=True)
class Needs:
    count: int


PART = f"{__name__}.Part"


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"count": "3"}, "count", 3),
        ({"rate": 1}, "rate", 1.0),
        ({"rate": "1e-3"}, "rate", 0.001),
        ({"values": [1, 2.5]}, "values", (1.0, 2.5)),
        ({"file": None}, "file", None),
        ({"file": "/tmp/../tmp/x"}, "file", Path("/tmp/x").resolve()),
        ({"inner": {"_target_": "tests.toys.parts.Judge", "rows_per_shard": 7}}, "inner", Judge(rows_per_shard=7)),
        ({"many": [{"_target_": "tests.toys.parts.Toss"}]}, "many", (Toss(),)),
        ({"inner": {"a": [1]}}, "inner", {"a": (1,)}),
    ],
)
def test_a_value_is_what_its_field_says(given: dict[str, Any], field: str, value: Any) -> None:
    built = getattr(build({"_target_": PART, **given}), field)
    assert (value, type(value)) == (built, type(built))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cuont": 1}, r"Part \(part\) has no field 'cuont'\n  allowed: count, rate"),
        ({"_hidden": 1}, "has no field '_hidden'"),
        ({"count": 1.5}, "part.count has a wrong value"),
        ({"count": None}, "part.count has a wrong value"),
        ({"choice": "c"}, "part.choice has a wrong value"),
        ({"values": "many"}, "part.values has a wrong value"),
        ({"count": -1}, "part: count must not be negative"),
        ({"inner": {"_target_": PART, "rate": "fast"}}, "part.inner.rate has a wrong value"),
        ({"many": [{"_target_": PART, "rate": "fast"}]}, r"part.many\[0\].rate has a wrong value"),
        ({"inner": {"_target_": "pathlib.Path"}}, "part.inner._target_ must name a dataclass"),
    ],
)
def test_a_wrong_value_is_named_by_its_key(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        build({"_target_": PART, **given}, "part")


def test_a_field_that_is_needed_is_asked_for() -> None:
    with pytest.raises(InputError, match=r"Needs needs a value for part.count\n  next:    add part.count="):
        build({"_target_": f"{__name__}.Needs"}, "part")


def test_a_config_builds_into_the_parts_it_names() -> None:
    parts = build({key: value for key, value in science(toy()).items() if key not in ("recipe", "seed", "on_empty")})
    assert (Toss(), Thermostat(), "both") == (parts["synthesis"], parts["control"], parts["knobs"])


def test_a_sweep_that_is_no_table_of_lists_is_refused() -> None:
    from ratchet.flows.sweep import members

    with pytest.raises(InputError, match="must map keys to lists"):
        members(toy() | {"sweep": {"seed": 1}}, ["experiment=toy"], TOYS, None)


def test_a_sweep_is_one_run_per_combination_with_the_seed_turning_slowest() -> None:
    from ratchet.flows.sweep import members

    words = ["experiment=toy"]
    found = members(toy() | {"sweep": {"recipe": ["star", "rest_em"], "seed": [1, 2]}}, words, TOYS, "group")
    assert ["group/recipe=star,seed=1", "group/recipe=rest_em,seed=1", "group/recipe=star,seed=2", "group/recipe=rest_em,seed=2"] == [
        member.name for member in found
    ]
    assert [("star", 1), ("rest_em", 1), ("star", 2), ("rest_em", 2)] == [(m.config["recipe"]["name"], m.config["seed"]) for m in found]


def test_a_choice_that_does_not_go_with_another_is_told_so() -> None:
    with pytest.raises(InputError, match=r"(?s)control.correct_only is that of selection.correct_only, which .* another selection or control"):
        compose(["selection=explored"])


def test_commas_sweep_as_hydra_s_multirun_does() -> None:
    from ratchet.flows.sweep import as_sweep

    words = ["recipe=b_star,online_rft", "seed=range(1,3)", "training.steps=80", "task.operations=[2,3],[3,4]", "name='a,b'"]
    swept = "sweep={recipe: [b_star, online_rft], seed: [1, 2], task.operations: [[2,3], [3,4]]}"
    assert ["training.steps=80", "name='a,b'", swept] == as_sweep(words)
    for wrong, said in ((["seed=1"], "a sweep is over something"), (["seed=1,,2"], "cannot read the override")):
        with pytest.raises(InputError, match=said):
            as_sweep(wrong)


def test_a_sweep_s_own_name_is_that_of_what_is_swept() -> None:
    """And never that of the single run of the same config, whose folder it would share."""
    from ratchet.flows.sweep import members

    axes = [{"seed": [1]}, {"seed": [2]}, {"seed": [1], "recipe": ["star"]}]
    names = [members(toy() | {"sweep": given}, ["experiment=toy"], TOYS, None)[0].name.partition("/")[0] for given in axes]
    assert 3 == len({*names})
    assert ["sweep-seed", "sweep-seed", "sweep-seed-recipe"] == [name.rpartition("-")[0] for name in names]


@pytest.mark.parametrize(
    ("words", "key", "with_"),
    [
        (["recipe=rest_em", "knobs=temperature"], "knobs", "recipe=b_star"),
        (["recipe=star", "knobs=both"], "knobs", "recipe=b_star"),  # its own value too: who gives it expects something of it
        (["recipe=b_star", "control=null", "knobs=fixed"], "knobs", "control=balance"),
        (["recipe=star", "task=jsonl", "task.train_file=some.jsonl", "hinted=0.3"], "hinted", "task=arithmetic"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_and_what_reads_it_is_named(words: list[str], key: str, with_: str) -> None:
    with pytest.raises(InputError) as refused:
        compose(words)
    assert f"{key} would have no effect" in str(refused.value)
    assert f"with {with_}\n" in str(refused.value)
    assert 2 == refused.value.exit_code


def test_a_key_of_the_users_own_must_be_read_by_something(tmp_path: Path) -> None:
    (tmp_path / "synthesis").mkdir()
    (tmp_path / "synthesis" / "mine.yaml").write_text("_target_: tests.toys.parts.Toss\nsamples: ${tries}\n")
    assert 7 == compose(["synthesis=mine", "+tries=7"], tmp_path)["synthesis"]["samples"]
    with pytest.raises(InputError, match="tries would have no effect"):
        compose(["+tries=7"])


@pytest.mark.parametrize(
    "words", [["knobs=temperature"], ["hinted=0.1"], ["recipe=star", "hinted=0.1"], ["recipe=star", "seed=3", "on_empty=continue"]]
)
def test_keys_that_are_read_are_taken_in_every_recipe_that_reads_them(words: list[str]) -> None:
    config = compose(words)
    key, _, value = words[-1].partition("=")
    assert value == str(config[key])


def test_a_recipes_own_values_go_before_the_defaults_and_the_users_before_both() -> None:
    assert (0.2, 0.2) == ((config := compose(["recipe=star"]))["hinted"], config["task"]["hinted"])
    assert (0.5, 0.5) == ((config := compose(["recipe=star", "hinted=0.5"]))["hinted"], config["task"]["hinted"])
    assert 0.0 == compose(["recipe=rest_em"])["hinted"]


def test_a_dial_of_a_group_that_is_left_out_is_said() -> None:
    with pytest.raises(InputError, match=r"gates.split is a dial of gates, which gates=null leaves out"):
        toy("gates=null", "gates.split=test")
    with pytest.raises(InputError, match=r"there is no key 'gates.splt'(.|\n)*did you mean gates.split"):
        toy("gates=standard", "gates.splt=test")
    with pytest.raises(InputError, match=r"there is no key 'synthesis.sampels'(.|\n)*did you mean synthesis.samples"):
        toy("gates=null", "synthesis.sampels=3")
