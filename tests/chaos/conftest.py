"""How much chaos there is, and where it takes place."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.schedule import QUICK
from tests.chaos.world import undisturbed
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
def cluster() -> Iterator[Cluster]:
    """A Slurm that may be broken."""
    if os.geteuid() != 0 or shutil.which("slurmctld") is None:
        pytest.skip("chaos needs root, and a Slurm of its own to break: infra/slurm/cluster.sh install")
    with tempfile.TemporaryDirectory(prefix="ratchet-chaos-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()


@pytest.fixture(scope="session")
def whole(ratchet: Warm, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], int]:
    """The undisturbed run's results, and how many artifacts it has."""
    return undisturbed(ratchet, tmp_path_factory.mktemp("undisturbed"))
