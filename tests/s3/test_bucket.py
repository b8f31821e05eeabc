"""The door to S3: what is asked is answered once and rightly, whatever the network and the server do meanwhile."""

import dataclasses
import os
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ratchet.infra.bucket
from ratchet.errors import InputError
from ratchet.infra.bucket import Bucket, check_endpoint, check_uri
from ratchet.infra.bucket_connection import Connection
from ratchet.infra.bucket_errors import StoreAway, WrongSize
from ratchet.infra.bucket_transfer import download_all, upload_all
from tests.s3.conftest import Store
from tests.s3.proxy import FAULTS, Proxy

PART = 5 << 20


def impatient(bucket: Bucket, **changes: Any) -> Bucket:
    return Bucket(connection=dataclasses.replace(bucket.connection, **{"patience_s": 0.5, **changes}))


def test_an_object_is_there_once_it_is_written_and_gone_once_it_is_deleted(bucket: Bucket) -> None:
    assert bucket.read("a") is None
    assert bucket.size("a") is None
    bucket.write("a", b"text")
    assert (b"text", 4) == ((bucket.read("a") or pytest.fail("nothing")).data, bucket.size("a"))
    bucket.delete("a")
    bucket.delete("a")
    assert bucket.read("a") is None


def test_a_listing_says_all_of_a_prefix_in_order_over_several_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratchet.infra.bucket, "PAGE", 3)
    for number in range(8):
        bucket.write(f"few/{number}", b"x" * number)
    bucket.write("more", b"")
    assert [(f"few/{number}", number) for number in range(8)] == [(entry.key, entry.bytes) for entry in bucket.list("few/")]
    assert ["few/6", "few/7"] == [entry.key for entry in bucket.list("few/", after="few/5")]
    assert ["few/0", "few/1", "few/2"] == [entry.key for entry in bucket.list("few/", pages=1)]


@pytest.mark.parametrize("kind", FAULTS)
def test_every_request_is_made_again_until_it_is_answered(bucket: Bucket, proxy: Proxy, kind: str) -> None:
    etag = bucket.write_new("known", b"1")
    assert etag is not None
    steps: list[tuple[str, Callable[[], Any], Any]] = [
        ("GET", lambda: (bucket.read("known") or pytest.fail("nothing")).data, b"1"),
        ("GET", lambda: bucket.read("unknown"), None),
        ("GET", lambda: [entry.key for entry in bucket.list("kno")], ["known"]),
        ("HEAD", lambda: bucket.size("known"), 1),
        ("PUT", lambda: bucket.write_new("known", b"2"), None),
        ("PUT", lambda: bucket.write_new("new", b"2") is not None, True),
        ("PUT", lambda: bucket.replace("known", b"2", '"0"'), None),
        ("PUT", lambda: bucket.replace("known", b"2", etag) is not None, True),
        ("DELETE", lambda: bucket.delete("new"), None),
    ]
    for method, does, expected in steps:
        before = proxy.count(method)
        proxy.next(method, "", kind)
        assert expected == does(), f"{method} that was {kind}"
        assert [] == proxy.once
        assert before < proxy.count(method)
    assert [b"2", None] == [body and body.data for body in bucket.read_all(["known", "new"]).values()]


@pytest.mark.parametrize("kind", ["409 ConditionalRequestConflict", "429 TooManyRequests", "400 RequestTimeout", "502 BadGateway"])
def test_what_another_try_may_cure_is_tried_again(bucket: Bucket, proxy: Proxy, kind: str) -> None:
    proxy.next("PUT", "", kind)
    assert bucket.write_new("a", b"1")
    assert [] == proxy.once


def test_a_writer_whose_reply_was_lost_knows_that_it_was_he(bucket: Bucket, proxy: Proxy) -> None:
    proxy.next("PUT", "mine", "lost")
    assert bucket.write_new("mine", b"first"), "the second try found what the first had written"
    assert bucket.write_new("mine", b"first") is None, "the same bytes by another call are another's"
    etag = (bucket.read("mine") or pytest.fail("nothing")).etag
    proxy.next("PUT", "mine", "lost")
    again = bucket.replace("mine", b"second", etag)
    assert again == (bucket.read("mine") or pytest.fail("nothing")).etag
    assert bucket.replace("mine", b"third", etag) is None


def test_of_many_writers_at_once_exactly_one_is_told_that_he_won(bucket: Bucket, proxy: Proxy) -> None:
    proxy.rate, proxy.kinds = 0.2, ("500", "lost", "reset")
    for key in ("a", "b", "c"):
        told: list[str] = []

        def write(name: str, key: str = key, told: list[str] = told) -> None:
            if bucket.write_new(key, name.encode()):
                told.append(name)

        threads = [threading.Thread(target=write, args=(f"writer {number}",)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(bucket.read(key) or pytest.fail("nothing")).data.decode()] == told
    assert proxy.done["lost"]


def test_files_go_up_and_come_down_whole_through_every_fault(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    content = {"empty": b"", "small": b"text", "exact": os.urandom(PART), "large": os.urandom(2 * PART + 17)}
    files = {}
    for name, data in content.items():
        files[name] = tmp_path / name
        files[name].write_bytes(data)
    proxy.rate = 0.4
    upload_all(bucket, files, PART)
    for seed in (1, 2):
        into = {name: (tmp_path / f"{name}.{seed}", len(data)) for name, data in content.items()}
        download_all(bucket, into, PART)
        assert content == {name: path.read_bytes() for name, (path, _) in into.items()}
    assert 5 <= sum(proxy.done.values()), "faults there were"


def test_an_upload_whose_completion_went_unheard_is_complete(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(PART + 1))
    proxy.once.append((lambda method, path: method == "POST" and "uploadId=" in path, "lost"))
    upload_all(bucket, {"large": tmp_path / "large"}, PART)
    assert PART + 1 == bucket.size("large")
    assert [] == list(bucket.uploads())


def test_a_download_goes_on_where_it_was_cut_off(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    data = os.urandom(3 * PART + 1)
    (tmp_path / "large").write_bytes(data)
    upload_all(bucket, {"large": tmp_path / "large"}, PART)
    one_by_one = Bucket(connection=dataclasses.replace(bucket.connection, patience_s=0.3, concurrency=1))
    fetched = 0

    def away(method: str, path: str) -> bool:
        nonlocal fetched
        fetched += method == "GET"
        proxy.away = fetched >= 2
        return False

    proxy.once.append((away, "none"))
    with pytest.raises(StoreAway):
        download_all(one_by_one, {"large": (tmp_path / "copy", len(data))}, PART)
    proxy.once.clear()
    proxy.reset()
    download_all(one_by_one, {"large": (tmp_path / "copy", len(data))}, PART)
    assert data == (tmp_path / "copy").read_bytes()
    assert 2 == proxy.count("GET"), "two parts of four were there"


def test_a_file_that_is_not_in_its_size_is_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("a", b"text")
    for size in (3, 5, PART + 5):
        with pytest.raises(WrongSize, match="a"):
            download_all(bucket, {"a": (tmp_path / str(size), size)}, PART)
    with pytest.raises(WrongSize, match="b"):
        download_all(bucket, {"b": (tmp_path / "b", 3)}, PART)


REFUSED = [
    ("403 AccessDenied", r"access to s3://.* is denied at http.*(?s:.*)s3:ListBucket"),
    ("404 NoSuchBucket", r"the bucket ratchet-tests does not exist"),
    ("403 InvalidAccessKeyId", r"credentials for s3://.* are not accepted(?s:.*)boto3's own chain"),
    ("403 SignatureDoesNotMatch", r"credentials for s3://.* are not accepted"),
    ("400 ExpiredToken", r"credentials for s3://.* are not accepted"),
    ("403 RequestTimeTooSkewed", r"refuses this machine's clock"),
    ("501 NotImplemented", r"refuses PutObject"),
    ("405 MethodNotAllowed", r"refuses PutObject"),
]


@pytest.mark.parametrize(("kind", "says"), REFUSED)
def test_what_is_refused_is_the_users_to_mend_and_not_asked_again(bucket: Bucket, proxy: Proxy, kind: str, says: str) -> None:
    proxy.seen.clear()
    proxy.next("PUT", "", kind)
    with pytest.raises(InputError, match=says) as refused:
        bucket.write_new("a", b"")
    assert (2, 1) == (refused.value.exit_code, len(proxy.seen))


def test_a_bucket_in_another_region_that_boto3_cannot_follow_is_named(bucket: Bucket, proxy: Proxy) -> None:
    proxy.rate, proxy.kinds = 1.0, ("400 IllegalLocationConstraintException",)
    with pytest.raises(InputError, match=r"the bucket ratchet-tests is in another region(?s:.*)store.region=REGION"):
        bucket.read("a")


def test_a_bucket_that_is_not_there_is_not_an_empty_one(machine: Store) -> None:
    with pytest.raises(InputError, match="the bucket no-such-bucket does not exist"):
        machine(uri="s3://no-such-bucket/x")


def test_no_credentials_is_said_at_once(bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ratchet.infra.bucket_connection._sessions", {})  # one that found some keeps them
    proxy.seen.clear()
    with pytest.raises(InputError, match=r"there are no credentials for s3://(?s:.*)AWS_ACCESS_KEY_ID"):
        Bucket(connection=Connection(uri=bucket.uri, endpoint_url=proxy.url, region="us-east-1")).read("a")
    assert [] == proxy.seen


def test_a_server_that_is_away_is_waited_for_and_the_user_told(
    bucket: Bucket, proxy: Proxy, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.infra.bucket_connection.SAY_AFTER_S", 0.2)
    bucket.write("a", b"text")
    proxy.away = True
    back = threading.Timer(1.0, lambda: setattr(proxy, "away", False))
    back.start()
    assert b"text" == (bucket.read("a") or pytest.fail("nothing")).data
    assert 2 == len(said)
    assert f"at {proxy.url} does not answer (" in said[0]
    assert "waiting for it, up to 20 s" in said[0]
    assert re.search(r"answers again, after [123] s$", said[1])


def test_a_server_that_stays_away_is_an_error_that_says_how_long_was_waited(bucket: Bucket, proxy: Proxy) -> None:
    proxy.away = True
    with pytest.raises(StoreAway, match=r"does not answer: .*\n  waited:  \d s \(store.patience_s=0.5\)\n  next: ") as away:
        impatient(bucket).read("a")
    assert 1 == away.value.exit_code
    with pytest.raises(StoreAway, match=r"refused|connect"):
        impatient(bucket, endpoint_url="http://127.0.0.1:9", _clients={}).read("a")


def test_a_server_that_is_silent_is_not_waited_for_beyond_its_time(bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.s3.proxy.SLOW_S", 1.5)
    bucket.write("a", b"text")
    proxy.next("GET", "", "slow")
    quick = Bucket(connection=dataclasses.replace(bucket.connection, timeout_s=0.3, patience_s=5, _clients={}))
    assert b"text" == (quick.read("a") or pytest.fail("nothing")).data
    assert 2 == proxy.count("GET")


def test_waiting_draws_nothing_from_the_global_generator(bucket: Bucket, proxy: Proxy) -> None:
    """A stage in the same process may be drawing from it."""
    random.seed(7)
    state = random.getstate()
    for kind in ("500", "reset", "503"):
        proxy.next("GET", "", kind)
    bucket.read("a")
    assert state == random.getstate()


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_server_that_ignores_conditions_is_refused(machine: Store, proxy: Proxy, header: str) -> None:
    proxy.ignored = (header,)
    with pytest.raises(InputError, match=f"(?i)does not honour conditional writes(?s:.*)it ignores .*{header}"):
        machine()
    proxy.ignored = ()
    machine()
    asked = len(proxy.seen)
    machine()
    assert asked == len(proxy.seen), "asked once"


@pytest.mark.parametrize("uri", ["s3://key:geheim@bucket/x", "s3://bucket/x?secret=geheim", "geheim@bucket"])
def test_credentials_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    for check in (check_uri, check_endpoint):
        with pytest.raises(InputError, match="boto3's own chain") as refused:
            check(uri)
        assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("uri", ["bucket", "s3:/bucket", "s3://", "s3://a", "https://bucket/x", "s3://bucket/a b", ""])
def test_an_address_that_is_none_is_refused_with_the_shape_of_one(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/prefix"):
        check_uri(uri)


@pytest.mark.parametrize("url", ["localhost:9000", "ftp://host", "http://", "http://ho st", ""])
def test_an_endpoint_that_is_none_is_refused_with_the_shape_of_one(url: str) -> None:
    with pytest.raises(InputError, match=r"http\(s\)://host:port"):
        check_endpoint(url)
