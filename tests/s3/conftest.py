"""An S3 server, behind a proxy that a test may let do harm.

It is Ceph's radosgw where that is installed, started once for all tests, and moto's where it is not. `RATCHET_TEST_S3` (`radosgw`,
`moto` or `radosgw moto`) chooses otherwise.
"""

import logging
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet.infra.bucket import Bucket
from ratchet.infra.bucket_connection import Connection
from ratchet.infra.s3_store import S3Store
from ratchet.infra.stores import S3
from tests.s3.proxy import Proxy
from tests.toys.drive import HOUSE

BUCKET = "ratchet-tests"
SERVERS = os.environ.get("RATCHET_TEST_S3", "radosgw" if shutil.which("radosgw") else "moto").split()

Store = Callable[..., S3Store]


@dataclass(frozen=True)
class Server:
    url: str
    credentials: Mapping[str, str]
    is_lenient: bool = False
    """It compares no signatures."""


@contextmanager
def moto() -> Iterator[Server]:
    """moto's server, in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    credentials = {"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": "SKTEST-that-nobody-may-see"}
    try:
        yield Server("http://{}:{}".format(*started.get_host_and_port()), credentials, is_lenient=True)
    finally:
        started.stop()


@contextmanager
def radosgw() -> Iterator[Server]:
    """A real server."""
    with tempfile.TemporaryDirectory(prefix="ratchet-s3-", ignore_cleanup_errors=True) as folder:
        script = ["bash", str(HOUSE / "infra/s3/server.sh")]
        subprocess.run([*script, "up", folder, "0"], check=True, capture_output=True)
        try:
            lines = (Path(folder) / "credentials").read_text().splitlines()
            credentials = dict(line.split("=", 1) for line in lines if line.startswith(("AWS_ACCESS", "AWS_SECRET")))
            yield Server((Path(folder) / "endpoint").read_text().strip(), credentials)
        finally:
            subprocess.run([*script, "down", folder], check=True, capture_output=True)


@pytest.fixture(scope="session", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with a bucket."""
    import boto3

    with {"moto": moto, "radosgw": radosgw}[request.param]() as found:
        key, secret = found.credentials["AWS_ACCESS_KEY_ID"], found.credentials["AWS_SECRET_ACCESS_KEY"]
        client = boto3.client("s3", endpoint_url=found.url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)
        client.create_bucket(Bucket=BUCKET)
        yield found


@pytest.fixture(autouse=True)
def credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """As boto3's chain finds them."""
    found = {**server.credentials, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(scope="session")
def standing(server: Server) -> Iterator[Proxy]:
    made = Proxy(server.url)
    yield made
    made.close()


@pytest.fixture
def proxy(standing: Proxy) -> Iterator[Proxy]:
    """Before the server; at first it does no harm."""
    standing.reset()
    yield standing
    standing.reset()


@pytest.fixture(autouse=True)
def shared_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 takes a quarter of a second to make a client: those that would be equal are one."""
    connect = Connection._connect

    def connected(of: Connection) -> Any:
        key = (os.getpid(), of.endpoint_url, of.timeout_s, of.concurrency, os.environ.get("AWS_ACCESS_KEY_ID"))
        if key not in CLIENTS:
            CLIENTS[key] = connect(of)
        return CLIENTS[key]

    monkeypatch.setattr(Connection, "_connect", connected)


CLIENTS: dict[tuple[Any, ...], Any] = {}


@pytest.fixture
def uri() -> str:
    """A prefix of the test's own."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def settings(proxy: Proxy, uri: str) -> S3:
    """A store's settings: little patience, small parts."""
    return S3(uri=uri, endpoint_url=proxy.url, region="us-east-1", patience_s=20, timeout_s=5, part_mb=5)


@pytest.fixture
def said() -> list[str]:
    """What the user was told meanwhile."""
    return []


@pytest.fixture
def machine(settings: S3, root: Path, said: list[str]) -> Store:
    """`machine("one")`: the store as a machine with a root of its own sees it."""

    def of(name: str = "one", **changes: object) -> S3Store:
        state = root / name / ".ratchet"
        state.mkdir(parents=True, exist_ok=True)
        opened = S3(**{**vars(settings), **changes}).open(state, said.append)  # type: ignore[arg-type]
        assert isinstance(opened, S3Store)
        return opened

    return of


@pytest.fixture
def bucket(machine: Store) -> Bucket:
    return machine().bucket
