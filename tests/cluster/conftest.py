"""A real Slurm and a real S3 server, each started once for all tests."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.cluster.clusters import CLUSTER, SERVER, Cluster, S3Server, cluster, need_installed, s3
from tests.toys.drive import Warm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A cluster of two nodes, to which Slurm's commands and the jobs of `ratchet` go from now on."""
    need_installed(CLUSTER)
    given = os.environ.get("RATCHET_TEST_SLURM_STATE")
    started: AbstractContextManager[Cluster] = nullcontext(Cluster(Path(given))) if given else cluster("--nodes", "2")
    with started as found, pytest.MonkeyPatch.context() as patch:
        found("status")
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server without a bucket; `s3_server.credentials` is the environment by which boto3 finds it."""
    need_installed(SERVER)
    given = os.environ.get("RATCHET_TEST_S3_FOLDER")
    started: AbstractContextManager[S3Server] = nullcontext(S3Server(Path(given))) if given else s3()
    with started as found:
        found("status")
        yield found


@pytest.fixture(scope="session")
def ratchet(slurm: Cluster, memory: Path) -> Iterator[Warm]:
    """A warm `ratchet` whose jobs go to the cluster."""
    warm = Warm(memory)
    yield warm
    warm.close()
