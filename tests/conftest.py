"""What many tests need: a root of their own, and a `ratchet` that is warm."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toys.drive import HOUSE, Warm

# Jobs are processes with nothing on their path but this: they import the toys by it.
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(HOUSE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])).rstrip(os.pathsep)
for name in ("RATCHET_ROOT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def memory() -> Path:
    """Where toy runs live that are little but many fsyncs: in memory if there is room."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 200e6
    return shared if roomy else Path(tempfile.gettempdir())


@pytest.fixture
def root(memory: Path) -> Iterator[Path]:
    """A root for runs."""
    with tempfile.TemporaryDirectory(prefix="ratchet-", dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def ratchet(memory: Path) -> Iterator[Warm]:
    """`ratchet("show", NAME, root=root)` and the like, at the price of a fork."""
    warm = Warm(memory)
    yield warm
    warm.close()
