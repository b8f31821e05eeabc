"""Whole runs on a store in a bucket: the same results as on a disk, whoever dies when, whatever the network does, on whichever machine."""

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ratchet.infra.bucket import Bucket
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.stores import S3, enter
from tests.s3.conftest import Server, Store
from tests.s3.proxy import Proxy
from tests.toys.drive import TOYS, Die, Warm, last_words

NAME = "mine"
WORDS = ("recipe=b_star", "rounds=1", "evaluation.samples=0")
SHORT = ("recipe=rest_em", "rounds=1", "evaluation.samples=0", "synthesis.rows_per_shard=6")
APPEND = "ratchet.infra.ledger.Ledger.append"


@pytest.fixture(scope="module")
def on_disk(ratchet: Warm, memory: Path) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """What some words come to on a disk, undisturbed."""
    folder = Path(tempfile.mkdtemp(prefix="ratchet-s3-", dir=memory))
    made: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}

    def of(*words: str) -> list[tuple[Any, ...]]:
        if words not in made:
            root = folder / str(len(made))
            assert 0 == ratchet.run(*words, "--name", NAME, root=root).code
            made[words] = results(RunFolder(root, NAME).ledger)
        return made[words]

    yield of
    shutil.rmtree(folder)


@pytest.fixture
def s3(settings: S3) -> tuple[str, ...]:
    return (
        *("store=s3", f"store.uri={settings.uri}", f"store.endpoint_url={settings.endpoint_url}", "store.region=us-east-1"),
        *("store.patience_s=20", "store.timeout_s=5", "store.part_mb=5"),
    )


def ledger_in_bucket(settings: S3, root: Path, name: str = NAME) -> RunFolder:
    """The run as a machine sees it that never saw it before."""
    run = RunFolder(root / "a machine that only looks", name)
    enter(run, {"_target_": "ratchet.infra.stores.S3", **vars(settings)})
    return run


def test_a_run_in_a_bucket_comes_to_what_it_comes_to_on_a_disk(
    ratchet: Warm, on_disk: Callable[..., Any], s3: tuple[str, ...], settings: S3, root: Path, credentials: Mapping[str, str]
) -> None:
    done = ratchet.run(*WORDS, *s3, "--name", NAME, root=root / "one", env=credentials)
    assert 0 == done.code, done.err
    assert on_disk(*WORDS) == results(ledger_in_bucket(settings, root).ledger)
    again = ratchet.run(*WORDS, *s3, "--name", NAME, root=root / "one", env=credentials)
    assert 0 == again.code, again.err
    assert {("published",)} == {tuple(words) for words in last_words(root / "one").values()}, "nothing was done twice"


def test_the_same_command_on_another_machine_goes_on(
    ratchet: Warm, on_disk: Callable[..., Any], s3: tuple[str, ...], settings: S3, root: Path, credentials: Mapping[str, str]
) -> None:
    """With nothing in common but the bucket."""
    die = Die(APPEND, word="published", n=7, when="after")
    assert -9 == ratchet.run(*WORDS, *s3, "--name", NAME, root=root / "one", env=credentials, die=die).code
    shutil.rmtree(root / "one")
    done = ratchet.run(*WORDS, *s3, "--name", NAME, root=root / "other", env=credentials)
    assert 0 == done.code, done.err
    run = ledger_in_bucket(settings, root)
    assert on_disk(*WORDS) == results(run.ledger)
    tries = Counter(event["identity"] for event in run.ledger if event["kind"] == "attempt")
    published = [event["identity"] for event in run.ledger if event["kind"] == "published"]
    assert len(published) == len(set(published))
    assert {1} == set(tries.values()), "what the first machine had published the other did not make again"
    assert 2 == sum(event["kind"] == "driver" for event in run.ledger)


def test_it_resumes_after_a_kill_at_every_boundary_with_faults_all_the_while(
    ratchet: Warm,
    on_disk: Callable[..., Any],
    s3: tuple[str, ...],
    settings: S3,
    root: Path,
    credentials: Mapping[str, str],
    proxy: Proxy,
) -> None:
    """By turns just before and just after an artifact is written down, and while it is put; every time from another machine's root."""
    proxy.rate = 0.1
    deaths = [
        Die(APPEND, word="published", n=2, when="before"),
        Die("ratchet.infra.bucket.Bucket.write_new", n=14, when="before"),
        Die(APPEND, word="attempt", n=3, when="after"),
        Die("ratchet.infra.s3_store.upload_all", n=2, when="after"),
        Die("ratchet.infra.bucket.Bucket.write_new", n=9, when="after"),
        Die(APPEND, word="advanced", when="before"),
        Die(APPEND, word="advanced", when="after"),
    ]
    codes = []
    for number, die in enumerate([*deaths, None, None]):
        done = ratchet.run(*SHORT, *s3, "--name", NAME, root=root / f"machine {number % 2}", env=credentials, die=die)
        codes.append(done.code)
        if done.code == 0:
            break
        assert -9 == done.code, done.err
    assert 5 <= codes.count(-9)
    assert 0 == codes[-1]
    proxy.rate = 0.0
    run = ledger_in_bucket(settings, root)
    assert on_disk(*SHORT) == results(run.ledger)
    assert [event["number"] for event in run.ledger] == list(range(1, 1 + len(list(run.ledger))))
    published = Counter(event["identity"] for event in run.ledger if event["kind"] == "published")
    assert {1} == set(published.values()), "each was published once"
    assert proxy.done


def test_jobs_in_processes_of_their_own_use_the_bucket_too(
    ratchet: Warm, on_disk: Callable[..., Any], s3: tuple[str, ...], settings: S3, root: Path, credentials: Mapping[str, str], proxy: Proxy
) -> None:
    proxy.rate, proxy.kinds = 0.05, ("500", "lost")
    few = ("recipe=rest_em", "rounds=0", "evaluation.samples=0", "synthesis.rows_per_shard=null")
    words = (*few, "executor=local", "executor.slots=2")
    done = ratchet.run(*words, *s3, "--name", NAME, root=root / "one", env=credentials)
    assert 0 == done.code, done.err
    assert on_disk(*few) == results(ledger_in_bucket(settings, root).ledger)


def test_a_second_machine_is_told_who_holds_the_run(
    ratchet: Warm, s3: tuple[str, ...], root: Path, credentials: Mapping[str, str], machine: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.infra.bucket_lease.BEAT_S", 0.2)
    with machine("one").runs.lease(NAME):
        done = ratchet.run(*SHORT, *s3, "--name", NAME, root=root / "other", env=credentials)
    assert 3 == done.code, done.err
    assert f"the run {NAME} is held by process {os.getpid()} on" in done.err
    assert not RunFolder(root / "other", NAME).exists(), "nothing was begun"


def ratchet_words(*words: str) -> tuple[str, ...]:
    return (*TOYS, *words, "--no-prefect", "--name", NAME)


REFUSED = [
    ({"store.uri": "s3://no-such-bucket/x"}, {}, r"the bucket no-such-bucket does not exist"),
    ({"store.uri": "bucket"}, {}, r"store: uri has a wrong value\n  got:     'bucket'\n  allowed: s3://bucket/prefix"),
    ({"store.uri": "s3://key:geheim@bucket/x"}, {}, r"leave credentials to boto3's own chain"),
    ({"store.part_mb": "1"}, {}, r"part_mb has a wrong value"),
    (
        {"store.patience_s": "0.5", "store.endpoint_url": "http://127.0.0.1:9"},
        {},
        r"does not answer: (?s:.*)waited:  [01] s \(store.patience_s=0.5\)",
    ),
]


@pytest.mark.parametrize(("changes", "env", "says"), REFUSED)
def test_a_store_that_cannot_be_used_is_one_clear_message(
    ratchet: Warm,
    s3: tuple[str, ...],
    root: Path,
    credentials: Mapping[str, str],
    changes: Mapping[str, str],
    env: Mapping[str, str],
    says: str,
) -> None:
    words = [word for word in s3 if word.partition("=")[0] not in changes]
    done = ratchet.run(*SHORT, *words, *(f"{key}={value}" for key, value in changes.items()), "--name", NAME, root=root, env={**credentials, **env})
    assert (1 if "endpoint_url" in str(changes) else 2) == done.code, done.err
    assert re.search(says, done.err), done.err
    assert "Traceback" not in done.err
    assert "geheim" not in done.err
    assert not RunFolder(root, NAME).exists(), "nothing was begun"


def test_credentials_that_are_not_accepted_are_the_users_to_mend(
    ratchet: Warm, s3: tuple[str, ...], root: Path, credentials: Mapping[str, str], server: Server, proxy: Proxy
) -> None:
    if server.is_lenient:  # moto compares no signatures
        proxy.rate, proxy.kinds = 1.0, ("403 SignatureDoesNotMatch",)
    wrong = {**credentials, "AWS_SECRET_ACCESS_KEY": "geheim"}
    done = ratchet.run(*SHORT, *s3, "--name", NAME, root=root, env=wrong)
    assert 2 == done.code
    assert "are not accepted" in done.err
    assert "boto3's own chain" in done.err
    assert "geheim" not in done.err


def test_a_run_that_is_continued_with_another_store_is_told_its_own(
    ratchet: Warm, s3: tuple[str, ...], root: Path, credentials: Mapping[str, str], uri: str
) -> None:
    assert 0 == ratchet.run(*SHORT, *s3, "--name", NAME, root=root, env=credentials).code
    done = ratchet.run(*SHORT, "--name", NAME, root=root, env=credentials)
    assert 2 == done.code
    assert f"the run {NAME} is kept in {uri}" in done.err
    assert 0 == ratchet("resume", NAME, "rounds=2", "--no-prefect", root=root, env=credentials).code, "resume knows the store"


def test_no_secret_is_written_anywhere(
    ratchet: Warm, s3: tuple[str, ...], root: Path, credentials: Mapping[str, str], bucket: Bucket, proxy: Proxy
) -> None:
    """Not in config, ledger, manifests, claims, logs or MLflow, whether it goes well or badly."""
    words = (*SHORT, "rounds=0", *s3, "--name", NAME)
    proxy.next("PUT", "objects/", "403 AccessDenied")
    assert 2 == ratchet.run(*words, "executor=local", root=root, env=credentials).code
    done = ratchet.run(*words, "tracker=mlflow", root=root, env=credentials)
    assert 0 == done.code, done.err
    secret = credentials["AWS_SECRET_ACCESS_KEY"].encode()
    files = [path for path in root.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert [] == [path for path in files if secret in path.read_bytes()]
    bodies = bucket.read_all([entry.key for entry in bucket.list("")])
    assert any(key.startswith(f"runs/{NAME}/ledger/") for key in bodies)
    assert [] == [key for key, body in bodies.items() if body and secret in body.data]
    assert secret.decode() not in done.out + done.err


def test_retry_and_delete_reach_the_bucket(
    ratchet: Warm, on_disk: Callable[..., Any], s3: tuple[str, ...], settings: S3, root: Path, credentials: Mapping[str, str], bucket: Bucket
) -> None:
    assert 0 == ratchet.run(*SHORT, *s3, "--name", NAME, root=root / "one", env=credentials).code
    assert 0 == ratchet.run(*SHORT, *s3, "--name", "twin", root=root / "one", env=credentials).code
    again = ratchet("retry", NAME, "--round", "1", "--stage", "train", "--no-prefect", root=root / "one", env=credentials)
    assert 0 == again.code, again.err
    assert "set aside: round 1 · train" in again.err
    assert on_disk(*SHORT) == results(ledger_in_bucket(settings, root).ledger)
    assert [entry.key for entry in bucket.list("quarantine/")]
    objects = [entry.key for entry in bucket.list("manifests/")]
    done = ratchet("delete", NAME, "--yes", root=root / "one", env=credentials)
    assert 0 == done.code, done.err
    assert [] == list(bucket.list(f"runs/{NAME}/"))
    assert objects == [entry.key for entry in bucket.list("manifests/")], "the twin uses them"
    assert 0 == ratchet("delete", "twin", "--yes", root=root / "one", env=credentials).code
    assert [] == list(bucket.list("manifests/")) == list(bucket.list("objects/")) == list(bucket.list("runs/"))


def test_plan_and_show_know_a_run_in_a_bucket(ratchet: Warm, s3: tuple[str, ...], root: Path, credentials: Mapping[str, str], proxy: Proxy) -> None:
    assert 0 == ratchet.run(*SHORT, *s3, "--name", NAME, root=root / "one", env=credentials).code
    proxy.seen.clear()
    plan = ratchet("plan", *ratchet_words(*SHORT, *s3)[:-3], "--name", NAME, root=root / "other", env=credentials)
    assert 0 == plan.code, plan.err
    assert " 0 to run" in plan.out
    manifests = proxy.count("GET", "manifests/")
    assert 0 < manifests
    again = ratchet("plan", *ratchet_words(*SHORT, *s3)[:-3], "--name", NAME, root=root / "other", env=credentials)
    assert manifests == proxy.count("GET", "manifests/"), "remembered"
    assert plan.out == again.out
    assert NAME in ratchet("show", NAME, root=root / "other", env=credentials).out


def test_gc_reaches_the_bucket_and_the_run_goes_on_anywhere(
    ratchet: Warm, s3: tuple[str, ...], settings: S3, root: Path, credentials: Mapping[str, str], bucket: Bucket
) -> None:
    words = ("recipe=rest_em", "rounds=3", "evaluation.samples=0", "synthesis.rows_per_shard=null", "verification.rows_per_shard=null")
    assert 0 == ratchet.run(*words, *s3, "--name", NAME, root=root / "one", env=credentials).code
    expected = results(ledger_in_bucket(settings, root).ledger)
    before = {entry.key: entry.bytes for entry in bucket.list("objects/")}
    said = ratchet("gc", NAME, "--keep-last", "1", root=root / "one", env=credentials)
    assert 0 == said.code, said.err
    assert before == {entry.key: entry.bytes for entry in bucket.list("objects/")}
    done = ratchet("gc", NAME, "--keep-last", "1", "--yes", root=root / "one", env=credentials)
    assert 0 == done.code, done.err
    after = {entry.key: entry.bytes for entry in bucket.list("objects/")}
    gone = {key.split("/")[1] for key in before.keys() - after.keys()}
    assert len(gone) == int(re.search(r"deleted (\d+) artifacts", done.out)[1])  # type: ignore[index]
    assert set() == gone & {entry.key.split("/")[1].removesuffix(".json") for entry in bucket.list("manifests/")}
    assert set() == gone & {folder.name for folder in (root / "one/.ratchet/objects").iterdir()}, "nor is it kept on this machine"
    again = ratchet.run(*words, *s3, "rounds=4", "--name", NAME, root=root / "other", env=credentials)
    assert 0 == again.code, again.err
    run = ledger_in_bucket(settings, root)
    assert expected == [line for line in results(run.ledger) if line[0] < 4]
    tries = [event["title"] for event in run.ledger if event["kind"] == "attempt"]
    assert len(tries) == len(set(tries)), "nothing was made twice"
    assert set() == gone & {entry.key.split("/")[1] for entry in bucket.list("objects/")}
