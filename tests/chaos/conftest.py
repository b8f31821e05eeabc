"""How much chaos there is, and where it takes place."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.chaos.schedule import QUICK
from tests.chaos.site import BUCKET, Site
from tests.chaos.world import Whole, undisturbed
from tests.cluster.clusters import CLUSTER, SERVER, S3Server, need_installed, s3
from tests.s3.proxy import Proxy
from tests.toys.drive import Warm


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", type=int, default=None, help="how many schedules of deaths; without it a few that hold every quick death")
    parser.addoption("--chaos-seed", type=int, default=0, help="the first schedule's seed; the next one's is one more")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        count, first = (metafunc.config.getoption(name, default=None) for name in ("chaos", "chaos_seed"))
        first = first or 0
        metafunc.parametrize("seed", range(first, first + (QUICK if count is None else count)), ids=lambda seed: f"seed-{seed}")


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A Slurm and an S3 server that may be broken."""
    need_installed(CLUSTER)
    need_installed(SERVER)
    with tempfile.TemporaryDirectory(prefix="ratchet-chaos-", ignore_cleanup_errors=True) as folder, s3() as server:
        proxy = Proxy(server.endpoint)
        site = Site(Path(folder), server, proxy)
        make_bucket(server)
        try:
            site.up()
            yield site
        finally:
            site.down()
            proxy.close()


def make_bucket(server: S3Server) -> None:
    import boto3

    key, secret = server.credentials["AWS_ACCESS_KEY_ID"], server.credentials["AWS_SECRET_ACCESS_KEY"]
    client = boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)
    client.create_bucket(Bucket=BUCKET)


@pytest.fixture(scope="session")
def whole(ratchet: Warm, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a run (None), or a sweep over an axis, makes undisturbed."""
    return cache(lambda axis: undisturbed(ratchet, tmp_path_factory.mktemp("undisturbed"), axis))
