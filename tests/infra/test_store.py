"""The store: published once, whole, and never silently other than its manifest says."""

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from ratchet.artifacts import MANIFEST, Manifest
from ratchet.errors import CorruptArtifact
from ratchet.infra.store import LocalStore

ONE = "a" * 32


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(state=root)


def publish(store: LocalStore, text: str, *, identity: str = ONE, attempt: str = "1", **more: Any) -> tuple[Manifest, bool]:
    draft = store.draft(identity, attempt)
    (draft / "rows").write_text(text)
    return store.publish(draft, identity=identity, kind="rollouts", **more)


def test_what_is_published_is_found_and_opened(store: LocalStore) -> None:
    assert store.find(ONE) is None
    manifest, won = publish(store, "text", rows=3, metrics={"x": 1.0}, made={"host": "h"})
    assert won
    assert manifest == store.find(ONE)
    assert "text" == (store.open(ONE).folder / "rows").read_text()
    assert "h" == store.made(ONE)["host"]
    assert [] == list((store.state / "drafts").iterdir())


def test_what_is_published_was_flushed_whole_and_a_disk_that_fails_publishes_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append(path.name)
        if path.name == "7":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    draft = store.draft(ONE, "1")
    for name in range(7):
        (draft / str(name)).write_text("text")
    store.publish(draft, identity=ONE, kind="rollouts")
    assert sorted([*map(str, range(7)), "made.json", MANIFEST, f"{ONE}.1"]) == sorted(flushed[:-1]), "in any order, but before it has its place"
    assert "objects" == flushed[-1]

    draft = store.draft("b" * 32, "1")
    for name in range(12):
        (draft / str(name)).write_text("text")
    with pytest.raises(OSError, match="Input/output error"):
        store.publish(draft, identity="b" * 32, kind="rollouts")
    assert store.find("b" * 32) is None


def test_host_time_and_attempt_are_not_in_the_digest(store: LocalStore) -> None:
    one = publish(store, "text", made={"host": "h", "attempt": 1})[0]
    other = publish(store, "text", identity="b" * 32, attempt="7", made={"host": "i"})[0]
    assert one.digest == other.digest
    assert set(one.files) == {"rows"}


def test_the_first_writer_wins_and_a_loser_that_differs_is_recorded(store: LocalStore) -> None:
    first = publish(store, "first")[0]
    second, won = publish(store, "second", attempt="2")
    assert (first, False) == (second, won)
    assert "first" == (store.open(ONE).folder / "rows").read_text()
    (note,) = (store.state / "claims" / ONE).glob("nondeterministic.*.json")
    assert first.digest == json.loads(note.read_text())["published"]


def test_a_loser_that_agrees_leaves_nothing_behind(store: LocalStore) -> None:
    publish(store, "same")
    assert not publish(store, "same", attempt="2")[1]
    assert not (store.state / "claims").exists()
    assert [] == list((store.state / "drafts").iterdir())


def _race(state: Path, number: int, results: Any) -> None:
    results.put(publish(LocalStore(state=state), f"by {number}", attempt=str(number))[1])


def test_of_many_that_race_exactly_one_wins(store: LocalStore) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    racers = [context.Process(target=_race, args=(store.state, number, results)) for number in range(6)]
    for racer in racers:
        racer.start()
    assert 1 == sum(results.get(timeout=20) for _ in racers)
    for racer in racers:
        racer.join()
    store.verify(ONE)


def _gone(folder: Path) -> None:
    (folder / "rows").unlink()


def _longer(folder: Path) -> None:
    (folder / "rows").write_text("text and more")


def _flipped(folder: Path) -> None:
    (folder / "rows").write_text("texT")


def _without_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _torn_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:40])


def _edited_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["kind"] = "policy"
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "says", "at_once"),
    [
        (_gone, "rows is missing", True),
        (_longer, "rows has 13 bytes, its manifest says 4", True),
        (_flipped, "rows has sha256", False),
        (_without_manifest, "manifest.json is missing", True),
        (_torn_manifest, "manifest.json cannot be read", True),
        (_edited_manifest, "manifest.json states digest", True),
    ],
)
def test_harm_is_named_by_file_and_never_taken_for_a_miss(store: LocalStore, harm: Any, says: str, at_once: bool) -> None:
    """`find` trusts sizes, `open` trusts nothing."""
    publish(store, "text")
    harm(store.object(ONE))
    with pytest.raises(CorruptArtifact, match=f"(?s)objects/{ONE}: {says}.*ratchet retry"):
        _ = store.find(ONE) if at_once else store.open(ONE)


def test_an_artifact_under_anothers_name_is_not_that_other(store: LocalStore) -> None:
    publish(store, "text")
    store.object(ONE).rename(store.object("b" * 32))
    with pytest.raises(CorruptArtifact, match=f"is that of {ONE}"):
        store.find("b" * 32)


def test_a_manifest_from_the_future_is_refused(store: LocalStore) -> None:
    publish(store, "text")
    path = store.object(ONE) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(CorruptArtifact, match="written by a newer ratchet"):
        store.find(ONE)


def test_a_store_that_cannot_be_read_is_not_an_empty_one(store: LocalStore) -> None:
    (store.state / "objects").write_text("a file where a folder should be")
    with pytest.raises(NotADirectoryError):
        store.find(ONE)


def test_an_artifact_that_is_not_there_cannot_be_opened(store: LocalStore) -> None:
    with pytest.raises(CorruptArtifact, match="is not published"):
        store.open(ONE)


def test_a_sharded_artifact_opens_with_its_parts(store: LocalStore) -> None:
    part = publish(store, "part", identity="b" * 32)[0]
    draft = store.draft(ONE, "1")
    store.publish(draft, identity=ONE, kind="rollouts", parts=[{"identity": part.identity, "digest": part.digest, "rows": 1}])
    assert ["part"] == [(opened.folder / "rows").read_text() for opened in store.open(ONE).parts]
    store.quarantine(part.identity)
    publish(store, "otherwise", identity="b" * 32)
    with pytest.raises(CorruptArtifact, match=f"objects/{ONE}: its shard {part.identity} has digest"):
        LocalStore(state=store.state).open(ONE)
    _flipped(store.object(part.identity))
    with pytest.raises(CorruptArtifact, match=part.identity):
        LocalStore(state=store.state).open(ONE)


def test_a_draft_is_always_fresh(store: LocalStore) -> None:
    (store.draft(ONE, "1") / "half").write_text("written")
    assert [] == list(store.draft(ONE, "1").iterdir())


def test_what_is_set_aside_is_kept_and_can_be_made_again(store: LocalStore) -> None:
    publish(store, "first")
    store.open(ONE)
    aside = store.quarantine(ONE)
    assert "first" == (aside / "rows").read_text()
    assert store.find(ONE) is None
    assert publish(store, "second")[1]
    assert "second" == (store.open(ONE).folder / "rows").read_text()


def test_a_json_value_is_named_by_what_it_says(store: LocalStore) -> None:
    one = store.publish_json("state.json", {"a": 1}, kind="state")
    assert one == store.publish_json("state.json", {"a": 1}, kind="state")
    assert one.identity != store.publish_json("state.json", {"a": 2}, kind="state").identity
