"""Artifacts in a bucket: once each, whole or not there, and what is fetched is what was published."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ratchet.artifacts import MANIFEST, Manifest
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical
from ratchet.infra.bucket_errors import StoreAway
from ratchet.infra.manifests import MADE
from ratchet.infra.s3_store import S3Store
from ratchet.infra.store import LocalStore
from ratchet.infra.stores import open_store
from tests.s3.conftest import Store
from tests.s3.proxy import Proxy
from tests.toys.drive import wait_until

ONE, TWO = "a" * 32, "b" * 32
MANIFEST_OF_ONE = f"manifests/{ONE}.json"
PART = 5 << 20


def publish(store: Any, text: str, *, identity: str = ONE, attempt: str = "1", **facts: Any) -> tuple[Manifest, bool]:
    draft = store.draft(identity, attempt)
    (draft / "rows").write_text(text)
    return store.publish(draft, identity=identity, kind="rollouts", rows=1, **facts)  # type: ignore[no-any-return]


def text_in(store: S3Store, identity: str = ONE) -> str:
    return (store.open(identity).folder / "rows").read_text()


def blob(store: S3Store, identity: str = ONE) -> str:
    (entry,) = store.bucket.list(f"objects/{identity}/")
    return entry.key


def test_what_one_machine_publishes_another_finds_and_opens(machine: Store) -> None:
    manifest, won = publish(machine("one"), "text", made={"host": "h", "attempt": 1}, metrics={"rows": 1.0}, inputs={"policy": "d"})
    assert won
    other = machine("other")
    assert manifest == other.find(ONE)
    assert "h" == other.made(ONE)["host"]
    assert "text" == text_in(other)
    assert {"rows", MANIFEST, MADE} == {file.name for file in other.object(ONE).iterdir()}
    assert {ONE} == other.identities()


def test_what_is_published_is_what_a_local_store_would_have_published(machine: Store, root: Path) -> None:
    here = publish(LocalStore(state=root / "local"), "text", made={"host": "h"})[0]
    there = publish(machine(), "text", made={"host": "i"})[0]
    assert (here, here.digest) == (there, there.digest)
    assert (root / "local/objects" / ONE / MANIFEST).read_bytes() == (machine().object(ONE) / MANIFEST).read_bytes()


def test_what_a_machine_published_it_need_not_fetch(machine: Store, proxy: Proxy) -> None:
    publish(machine(), "text")
    proxy.seen.clear()
    assert "text" == text_in(machine())
    assert 0 == proxy.count("GET", "objects/")


def test_a_machine_fetches_only_what_it_opens(machine: Store, proxy: Proxy) -> None:
    publish(machine("one"), "text")
    publish(machine("one"), "more", identity=TWO)
    proxy.seen.clear()
    other = machine("other")
    assert "more" == text_in(other, TWO)
    assert 0 == proxy.count("GET", f"objects/{ONE}")
    assert not other.object(ONE).exists()


def test_the_first_writer_wins_and_a_loser_that_differs_is_recorded(machine: Store) -> None:
    first = publish(machine("one"), "first")[0]
    other = machine("other")
    assert (first, False) == publish(other, "second", made={"host": "o"})
    assert "first" == text_in(other)
    (note,) = (other.state / "claims" / ONE).glob("nondeterministic.*.json")
    assert first.digest == json.loads(note.read_text())["published"]
    assert [] == list((other.state / "drafts").iterdir())


def test_a_loser_that_agrees_leaves_nothing_behind_and_need_not_fetch(machine: Store, proxy: Proxy) -> None:
    publish(machine("one"), "same", made={"host": "one"})
    other = machine("other")
    assert not publish(other, "same", made={"host": "other"})[1]
    assert not (other.state / "claims").exists()
    proxy.seen.clear()
    assert ("same", "one") == (text_in(other), json.loads((other.object(ONE) / MADE).read_text())["host"])
    assert 0 == proxy.count("GET", "objects/")


def test_a_publication_whose_reply_was_lost_is_the_winner(machine: Store, proxy: Proxy) -> None:
    store = machine()
    proxy.next("PUT", MANIFEST_OF_ONE, "lost")
    assert publish(store, "text")[1]
    assert 2 == proxy.count("PUT", MANIFEST_OF_ONE), "the second was refused, for the first was done"
    assert "text" == text_in(store)


def _race(store: S3Store, number: int, results: Any) -> None:
    results.put((number, publish(store, f"by {number}", attempt=str(number))[1]))


def test_of_twelve_processes_that_publish_one_stage_exactly_one_wins(machine: Store, proxy: Proxy) -> None:
    proxy.rate, proxy.kinds = 0.15, ("500", "503", "lost", "reset")
    stores = [machine(f"machine {number % 3}") for number in range(12)]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    racers = [context.Process(target=_race, args=(store, number, results)) for number, store in enumerate(stores)]
    for racer in racers:
        racer.start()
    told = dict(results.get(timeout=40) for _ in racers)
    for racer in racers:
        racer.join()
    (winner,) = [number for number, won in told.items() if won]
    proxy.rate = 0
    for name in ("machine 0", "machine 1", "machine 2", "another"):
        assert f"by {winner}" == text_in(machine(name))


def test_what_was_made_while_the_bucket_was_away_is_not_lost(machine: Store, proxy: Proxy) -> None:
    """Hours of training are not to depend on some minutes of S3."""
    for part in ("objects/", MANIFEST_OF_ONE):

        def away(method: str, path: str, part: str = part) -> bool:
            proxy.away = proxy.away or (method == "PUT" and part in path)
            return proxy.away

        store = machine(patience_s=0.3)
        proxy.once.append((away, "reset"))
        with pytest.raises(StoreAway, match=f"(?s)does not answer.*what was made waits in .*/outbox/{ONE}"):
            publish(store, "text", made={"host": "h"})
        proxy.reset()
        assert [] == [folder for folder in (store.state / "drafts").iterdir() if folder.name.startswith(ONE)]
        later = machine()
        later.survey([])
        assert "rollouts" == (later.find(ONE) or pytest.fail("nothing")).kind
        assert ("text", "h") == (text_in(machine("other")), machine("other").made(ONE)["host"])
        assert [] == [folder for folder in (store.state / "outbox").iterdir() if folder.is_dir()]
        later.remove(ONE)


def _publish_large(store: S3Store) -> None:
    draft = store.draft(ONE, "1")
    (draft / "rows").write_bytes(bytes(3 * PART))
    store.publish(draft, identity=ONE, kind="policy")


@pytest.mark.parametrize(("method", "part"), [("POST", "?uploads"), ("PUT", "partNumber=2"), ("POST", "?uploadId="), ("PUT", MANIFEST_OF_ONE)])
def test_a_job_killed_at_any_moment_of_publishing_has_published_nothing(machine: Store, proxy: Proxy, method: str, part: str) -> None:
    store = machine("one")
    reached: list[str] = []

    def stands_still(m: str, p: str) -> bool:
        if m == method and part in p:
            reached.append(p)
            proxy.away = True
        return False

    proxy.once.append((stands_still, ""))
    job = multiprocessing.get_context("fork").Process(target=_publish_large, args=(store,))
    job.start()
    wait_until(lambda: reached, "the moment")
    os.kill(job.pid or 0, signal.SIGKILL)
    job.join()
    proxy.once.clear()
    proxy.away = False
    other = machine("other")
    if part == MANIFEST_OF_ONE and other.find(ONE):  # that request was through before the proxy stood still
        return
    assert other.find(ONE) is None
    _publish_large(other)
    assert bytes(3 * PART) == (machine("third").open(ONE).folder / "rows").read_bytes()


def test_a_fetch_that_was_cut_off_goes_on(machine: Store, proxy: Proxy) -> None:
    data = os.urandom(3 * PART + 5)
    draft = machine("one").draft(ONE, "1")
    (draft / "rows").write_bytes(data)
    machine("one").publish(draft, identity=ONE, kind="policy")
    fetched: list[str] = []

    def away(method: str, path: str) -> bool:
        if method == "GET" and "objects/" in path:
            fetched.append(path)
            proxy.away = len(fetched) >= 2
        return False

    proxy.once.append((away, ""))
    with pytest.raises(StoreAway):
        machine("other", patience_s=0.3, concurrency=1).open(ONE)
    proxy.reset()
    other = machine("other")
    assert not other.object(ONE).exists(), "what is not whole is not there"
    assert data == (other.open(ONE).folder / "rows").read_bytes()
    assert 2 == proxy.count("GET", "objects/")
    assert [] == [folder for folder in (other.state / "downloads").iterdir() if folder.is_dir()]


@pytest.mark.parametrize("kind", ["torn", "lost", "500", "slow"])
def test_faults_on_the_way_change_nothing(machine: Store, proxy: Proxy, kind: str) -> None:
    draft = machine("one").draft(ONE, "1")
    for name in ("a", "b"):
        (draft / name).mkdir()
        (draft / name / "rows").write_text("the same")
    (draft / "large").write_bytes(bytes(PART + 1))
    proxy.rate, proxy.kinds = 0.3, (kind,)
    manifest, won = machine("one").publish(draft, identity=ONE, kind="policy")
    assert won
    opened = machine("other").open(ONE)
    assert (manifest, "the same", "the same") == (opened.manifest, *((opened.folder / name / "rows").read_text() for name in ("a", "b")))
    assert proxy.done[kind]


def _open(store: S3Store, results: Any) -> None:
    results.put(text_in(store))


def test_processes_of_one_machine_fetch_an_artifact_once(machine: Store, proxy: Proxy) -> None:
    publish(machine("one"), "text")
    proxy.seen.clear()
    proxy.next("GET", "objects/", "slow")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    jobs = [context.Process(target=_open, args=(machine("other"), results)) for _ in range(4)]
    for job in jobs:
        job.start()
    assert ["text"] * 4 == [results.get(timeout=20) for _ in jobs]
    for job in jobs:
        job.join()
    assert 1 == proxy.count("GET", "objects/")


def test_a_copy_that_is_harmed_is_fetched_again_and_kept_aside(machine: Store) -> None:
    publish(machine(), "text")
    (machine().object(ONE) / "rows").write_text("texT")
    assert "text" == text_in(machine())
    (aside,) = (machine().state / "quarantine").iterdir()
    assert "texT" == (aside / "rows").read_text()


def test_a_copy_of_another_result_gives_way_to_what_is_published(machine: Store) -> None:
    """A root that made the stage with a local store before, and came out otherwise."""
    publish(LocalStore(state=machine("other").state), "otherwise")
    publish(machine("one"), "text")
    assert "text" == text_in(machine("other"))


def _gone(store: S3Store) -> None:
    store.bucket.delete(blob(store))


def _longer(store: S3Store) -> None:
    store.bucket.write(blob(store), b"text and more")


def _flipped(store: S3Store) -> None:
    store.bucket.write(blob(store), b"texT")


def _torn_manifest(store: S3Store) -> None:
    store.bucket.write(MANIFEST_OF_ONE, b'{"identity":')


def _edited_manifest(store: S3Store) -> None:
    body = store.bucket.read(MANIFEST_OF_ONE)
    assert body
    store.bucket.write(MANIFEST_OF_ONE, canonical({**json.loads(body.data), "kind": "policy"}))


def _of_another(store: S3Store) -> None:
    publish(store, "more", identity=TWO)
    body = store.bucket.read(f"manifests/{TWO}.json")
    assert body
    store.bucket.write(MANIFEST_OF_ONE, body.data)


def _from_outside(store: S3Store) -> None:
    body = store.bucket.read(MANIFEST_OF_ONE)
    assert body
    text = {**json.loads(body.data), "files": {"../../../escaped": {"sha256": "0" * 64, "bytes": 4}}}
    del text["digest"], text["made"]
    text["parts"] = ()
    store.bucket.write(MANIFEST_OF_ONE, canonical({**text, "digest": Manifest(**text).digest}))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_gone, "rows is missing"),
        (_longer, "rows has 13 bytes, its manifest says 4"),
        (_flipped, "rows has not the sha256"),
        (_torn_manifest, "manifest.json cannot be read"),
        (_edited_manifest, "manifest.json states digest"),
        (_of_another, f"manifest.json is that of {TWO}"),
        (_from_outside, "manifest.json names a file '../../../escaped'"),
    ],
)
def test_harm_in_the_bucket_is_named_never_a_miss_and_mended_by_a_retry(machine: Store, harm: Any, says: str) -> None:
    publish(machine("one"), "text")
    harm(machine("one"))
    other = machine("other")
    with pytest.raises(CorruptArtifact, match=f"corrupted artifact s3://.*/objects/{ONE}: {says}(?s:.*)ratchet retry"):
        other.open(ONE)
    assert other.has(ONE)
    other.quarantine(ONE)
    assert not other.has(ONE)
    assert publish(other, "text")[1]
    assert "text" == text_in(machine("third"))


def test_what_is_set_aside_is_kept_and_can_be_made_again(machine: Store) -> None:
    store = machine()
    publish(store, "first")
    store.open(ONE)
    aside = store.quarantine(ONE)
    assert "first" == (aside / "rows").read_text()
    assert (None, set()) == (store.find(ONE), store.identities())
    assert 1 == len(list(store.bucket.list("quarantine/")))
    assert publish(store, "second")[1]
    assert ("second", "second") == (text_in(store), text_in(machine("other")))


def test_a_server_that_fails_is_not_an_empty_store(machine: Store, proxy: Proxy) -> None:
    store = machine(patience_s=0.3)
    for kind in ("500", "503", "reset"):
        proxy.rate, proxy.kinds = 1.0, (kind,)
        for ask in (store.find, store.has, store.open):
            with pytest.raises(StoreAway):
                ask(ONE)


def test_a_survey_answers_for_a_thousand_with_one_request(machine: Store, proxy: Proxy) -> None:
    known = [f"{number:032x}" for number in range(12)]
    for identity in known:
        publish(machine("one"), identity, identity=identity)
    unknown = [f"{number:032x}" for number in range(100, 140)]
    other = machine("other")
    proxy.seen.clear()
    other.survey(known)
    assert (1, 12) == (proxy.count("GET", "list-type"), proxy.count("GET", "manifests/0"))
    assert known == [(other.find(identity) or pytest.fail("nothing")).identity for identity in known]
    assert [None] * 40 == [other.find(identity) for identity in unknown]
    assert 13 == len(proxy.seen), "all of that was known"
    publish(machine("one"), "new", identity=unknown[0])
    assert other.find(unknown[0]), "asked again, it is looked for again"
    proxy.seen.clear()
    again = machine("other")
    again.survey(known)
    assert [(identity, 1) for identity in known] == [(identity, (again.find(identity) or pytest.fail("nothing")).rows) for identity in known]
    assert 1 == len(proxy.seen), "manifests that did not change are remembered"


def test_what_is_published_after_a_survey_can_be_opened_at_once(machine: Store) -> None:
    for number, ask in enumerate((text_in, S3Store.made, S3Store.verify, lambda store, identity: store.file(identity, "rows"))):
        identity = f"{number:032x}"
        other = machine("other")
        other.survey([])
        publish(machine("one"), "text", identity=identity)
        assert ask(other, identity)


def test_a_manifest_that_was_made_anew_is_not_remembered_as_it_was(machine: Store) -> None:
    publish(machine("one"), "first")
    machine("other").survey([ONE])
    machine("one").quarantine(ONE)
    second = publish(machine("one"), "second")[0]
    other = machine("other")
    other.survey([ONE])
    assert second == other.find(ONE)
    assert "second" == text_in(other)


def test_a_sharded_artifact_opens_with_its_parts(machine: Store) -> None:
    store = machine("one")
    part = publish(store, "part", identity=TWO)[0]
    store.publish(store.draft(ONE, "1"), identity=ONE, kind="rollouts", parts=[{"identity": TWO, "digest": part.digest, "rows": 1}])
    assert ["part"] == [(opened.folder / "rows").read_text() for opened in machine("other").open(ONE).parts]
    store.quarantine(TWO)
    publish(store, "otherwise", identity=TWO)
    with pytest.raises(CorruptArtifact, match=f"objects/{ONE}: its shard {TWO} has digest"):
        machine("third").open(ONE)


def test_what_is_removed_is_gone_everywhere_but_where_it_is_open(machine: Store) -> None:
    store = machine()
    publish(store, "text")
    publish(store, "more", identity=TWO)
    assert 4 == store.size(ONE)
    store.remove(ONE)
    assert ({TWO}, None) == (store.identities(), store.find(ONE))
    assert [] == list(store.bucket.list(f"objects/{ONE}/"))
    assert not store.object(ONE).exists()
    with pytest.raises(CorruptArtifact, match=f"{ONE} is not published"):
        machine("other").open(ONE)


def test_leftovers_are_what_no_manifest_names_and_nobody_works_at(machine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store = machine()
    publish(store, "text")
    publish(machine("other"), "loser")
    publish(store, "first", identity=TWO)
    store.quarantine(TWO)
    assert {"set aside by `retry`"} == {left.why for left in store.leftovers()}, "what is young may be at work"
    created = store.bucket.connection.call(lambda client: client.create_multipart_upload(**store.bucket.place(f"objects/{TWO}/half")))
    monkeypatch.setattr("ratchet.infra.s3_leftovers.ABANDONED_S", -1.0)
    found = {(left.identity, left.why) for left in store.leftovers()}
    assert {
        (TWO, "set aside by `retry`"),
        (ONE, "a file that its artifact's manifest does not name"),
        (TWO, "a file of an attempt that never published"),
        (TWO, f"an upload that was never completed ({created['UploadId']})"),
    } == found
    for left in store.leftovers():
        store.discard(left)
    assert [] == store.leftovers()
    assert "text" == text_in(machine("third"))


def test_a_store_is_opened_again_by_what_it_says_of_itself(machine: Store, credentials: dict[str, str]) -> None:
    store = machine()
    publish(store, "text")
    text = json.dumps(store.spec)
    again = open_store(json.loads(text), store.state)
    assert (store.spec, "text") == (again.spec, text_in(again))  # type: ignore[arg-type]
    assert not [secret for name, secret in credentials.items() if name != "AWS_EC2_METADATA_DISABLED" and secret in text]


def test_a_json_value_is_named_by_what_it_says(machine: Store) -> None:
    one = machine("one").publish_json("state.json", {"a": 1}, kind="state")
    assert one == machine("other").publish_json("state.json", {"a": 1}, kind="state")
    assert one.identity != machine("one").publish_json("state.json", {"a": 2}, kind="state").identity
