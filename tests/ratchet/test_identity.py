"""What makes two components, configs or files the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import InputError
from ratchet.identity import canonical, construct, decimal_key, derive_seed, describe, digest, identity_of, locate, source_digest, source_sha256


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    version = 3
    inner: Inner = Inner()
    file: Path | None = None
    values: tuple[float, ...] = (1.0, 2.0)
    name: str = "x"


def identity(component: Any) -> str:
    return digest(identity_of(describe(component)))


def test_canonical_json_has_one_spelling() -> None:
    assert b'{"a":[1,"\xc3\xa9"],"b":null}' == canonical({"b": None, "a": [1, "é"]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"x": value})


def test_a_description_gives_an_equal_component_back() -> None:
    part = Outer(inner=Inner(rate=0.25), file=Path("/tmp"), values=(3.0,))
    assert part == construct(describe(part))


def test_every_field_the_version_and_the_class_are_in_the_identity() -> None:
    assert identity(Outer()) == identity(Outer())
    others = [Outer(name="y"), Outer(inner=Inner(rate=0.6)), Outer(values=(1.0,)), Inner()]
    assert 5 == len({identity(part) for part in [Outer(), *others]})


def test_a_higher_version_is_another_component(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(Outer())
    monkeypatch.setattr(Outer, "version", 4)
    assert before != identity(Outer())


def test_whole_floats_and_integers_are_the_same_number() -> None:
    assert digest(identity_of({"t": 1, "u": [2]})) == digest(identity_of({"t": 1.0, "u": [2.0]}))
    assert digest(identity_of({"t": 1.5})) != digest(identity_of({"t": 1}))


def test_an_external_file_counts_by_what_it_holds_not_by_where_it_lies(tmp_path: Path) -> None:
    one, moved, edited = (tmp_path / name for name in ("a", "b", "c"))
    one.write_text("same")
    moved.write_text("same")
    edited.write_text("other")
    assert identity(Outer(file=one)) == identity(Outer(file=moved))
    assert identity(Outer(file=one)) != identity(Outer(file=edited))


def test_a_file_that_was_edited_in_place_is_another(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("one")
    before = source_sha256(path)
    path.write_text("two, longer")
    assert before != source_sha256(path)


def test_a_folder_counts_by_its_names_and_contents(tmp_path: Path) -> None:
    for name in ("a", "b", "renamed"):
        (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "x").write_text("1")
    (tmp_path / "b" / "deep" / "x").write_text("1")
    (tmp_path / "renamed" / "deep" / "y").write_text("1")
    a, b, renamed = (source_sha256(tmp_path / name) for name in ("a", "b", "renamed"))
    assert a == b
    assert a != renamed


def test_a_missing_file_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        identity(Outer(file=tmp_path / "nowhere"))


def test_a_field_that_is_no_plain_value_is_refused() -> None:
    with pytest.raises(InputError, match="cannot hold a set"):
        describe(Outer(name={1}))  # type: ignore[arg-type]


def test_a_spec_of_another_version_is_not_run() -> None:
    with pytest.raises(InputError, match=r"is version 3, the stage was asked of version 2"):
        construct(describe(Outer()) | {"version": 2})


@pytest.mark.parametrize("dotted", ["nowhere.at.All", "ratchet.errors.Nothing", "plain", ""])
def test_a_name_that_names_nothing_is_the_users_to_mend(dotted: str) -> None:
    with pytest.raises(InputError, match="cannot import"):
        locate(dotted)


@pytest.mark.parametrize(("value", "key"), [(0.5, "0.5"), (1.0, "1"), (1, "1"), (0.1 + 0.2, "0.3"), (-0.25, "-0.25"), (100.0, "100"), ("x", "x")])
def test_a_grid_value_has_one_decimal(value: float, key: str) -> None:
    assert key == decimal_key(value)


def test_seeds_differ_by_every_part_and_are_the_same_everywhere() -> None:
    seeds = [derive_seed(0, 1, "train", 0), derive_seed(1, 1, "train", 0), derive_seed(0, 2, "train", 0), derive_seed(0, 1, "train", 1)]
    assert 4 == len(set(seeds))
    assert 160742298 == derive_seed(0, 1, "train", 0)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_source_of_a_component_is_digested_but_not_part_of_it() -> None:
    assert 16 == len(source_digest(Outer()))
    assert source_digest(Outer()) not in str(identity_of(describe(Outer())))
