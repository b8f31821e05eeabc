"""`infra/s3/server.sh` is a real S3 server: what a store of results relies on holds there, and whatever it started it ends."""

import socket
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.clusters import SERVER, S3Server, daemons_of, s3, script


def client(server: S3Server, **changes: str) -> Any:
    import boto3
    from botocore.config import Config

    known = {**server.credentials, **changes}
    return boto3.client(
        "s3",
        endpoint_url=known["AWS_ENDPOINT_URL"],
        region_name=known["AWS_DEFAULT_REGION"],
        aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10, max_pool_connections=20),
    )


def answer(call: Any, **arguments: Any) -> int:
    """The status with which a call was answered."""
    from botocore.exceptions import ClientError

    try:
        return int(call(**arguments)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    client(s3_server).create_bucket(Bucket="server-tests")
    return "server-tests"


def test_what_is_put_is_got(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    s3 = client(s3_server)
    (tmp_path / "large").write_bytes(bytes(range(256)) * (20 << 12))  # 20 MiB: sent in parts
    s3.upload_file(str(tmp_path / "large"), bucket, "some/large")
    s3.download_file(bucket, "some/large", str(tmp_path / "back"))
    assert (tmp_path / "large").read_bytes() == (tmp_path / "back").read_bytes()
    assert ["some/large"] == [found["Key"] for found in s3.list_objects_v2(Bucket=bucket, Prefix="some/")["Contents"]]
    assert 404 == answer(s3.head_object, Bucket=bucket, Key="some/other")


def test_of_writers_that_race_for_a_key_one_wins(s3_server: S3Server, bucket: str) -> None:
    s3 = client(s3_server)
    for race in range(5):
        start = threading.Barrier(12)

        def write(n: int, key: str = f"race/{race}", start: threading.Barrier = start) -> int:
            start.wait()
            return answer(s3.put_object, Bucket=bucket, Key=key, Body=str(n).encode(), IfNoneMatch="*")

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(write, range(12)))
        assert {200: 1, 412: 11} == Counter(answers)
        assert str(answers.index(200)).encode() == s3.get_object(Bucket=bucket, Key=f"race/{race}")["Body"].read()


def test_who_has_no_key_is_refused(s3_server: S3Server, bucket: str) -> None:
    assert 403 == answer(client(s3_server, AWS_SECRET_ACCESS_KEY="wrong").list_objects_v2, Bucket=bucket)
    assert 403 == answer(client(s3_server, AWS_ACCESS_KEY_ID="NOBODY").list_objects_v2, Bucket=bucket)
    assert 0o600 == (s3_server.folder / "credentials").stat().st_mode & 0o777


def test_an_outage_loses_nothing(s3_server: S3Server, bucket: str) -> None:
    from botocore.exceptions import EndpointConnectionError

    s3 = client(s3_server)
    s3.put_object(Bucket=bucket, Key="kept", Body=b"kept")
    s3_server("stop-gateway")
    assert 1 == script(SERVER, "status", str(s3_server.folder)).returncode
    with pytest.raises(EndpointConnectionError):
        s3.get_object(Bucket=bucket, Key="kept")
    s3_server("start-gateway")
    assert b"kept" == s3.get_object(Bucket=bucket, Key="kept")["Body"].read()


def test_servers_live_side_by_side_and_each_ends_alone(s3_server: S3Server, bucket: str) -> None:
    with s3() as other:
        assert other("up").startswith(f"already up: {other.endpoint}")
        assert s3_server.endpoint != other.endpoint
        assert 404 == answer(client(other).list_objects_v2, Bucket=bucket)
        assert 403 == answer(client(other, AWS_ENDPOINT_URL=s3_server.endpoint).list_objects_v2, Bucket=bucket)
        assert ["ceph-mon", "ceph-osd", "radosgw"] == daemons_of(other.folder)
        other("down")
        assert [] == daemons_of(other.folder)
        assert not (other.folder / "endpoint").exists()
    assert 200 == answer(client(s3_server).list_objects_v2, Bucket=bucket)


def test_a_port_that_is_taken_is_refused(s3_server: S3Server) -> None:
    with tempfile.TemporaryDirectory(prefix="ratchet-s3-") as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = script(SERVER, "up", folder, port)
        assert 2 == refused.returncode
        assert f"ports {port} to " in refused.stderr
        assert [] == daemons_of(Path(folder))
