"""Some runs to compare, made once for all the tests that read them."""

import atexit
import shutil
import tempfile
from pathlib import Path

from tests.toys.drive import TOYS, Warm

EXAM = ("evaluation._target_=tests.toys.counted.Counted", "task.size=40", "synthesis.rows_per_shard=null", "verification.rows_per_shard=null")
RUNS = {
    "slow": ("recipe=rest_em", "rounds=8", *EXAM),
    "seeded": ("recipe=rest_em", "rounds=8", "seed=1", *EXAM, "verification.rows_per_shard=70"),
    "probing": ("recipe=b_star", "rounds=2", *EXAM),
    "larger": ("recipe=rest_em", "rounds=0", *EXAM, "task.size=41"),
    "cooler": ("recipe=rest_em", "rounds=0", *EXAM, "evaluation.temperature=0.5"),
    "group/seed=2": ("recipe=rest_em", "rounds=0", "seed=2", *EXAM),
    "group/seed=3": ("recipe=rest_em", "rounds=0", "seed=3", *EXAM),
}

_made: list[Path] = []


def some_runs(ratchet: Warm, memory: Path) -> Path:
    """A root with `RUNS`, to be read and copied, never written to."""
    if not _made:
        root = Path(tempfile.mkdtemp(prefix="ratchet-compared-", dir=memory))
        atexit.register(shutil.rmtree, root, ignore_errors=True)
        going = [ratchet.start("run", *TOYS, *words, "--name", name, "--no-prefect", root=root) for name, words in RUNS.items()]
        for done in [command.wait() for command in going]:
            assert 0 == done.code, done.err
        _made.append(root)
    return _made[0]
