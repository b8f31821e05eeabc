"""How large the driver grows with the number of rollouts in a stage: it should not.

    python -m benchmarks.memory [--rollouts 1000 10000 100000] [--under FOLDER]

One round of ReST-EM on the tests' toy policy with `executor=local`, so that the work is done elsewhere: what the driver holds is the
run. Its peak is the kernel's (`VmHWM`), read as it ends; so is that of the largest of its jobs, which do hold rows.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import HOUSE, disk, environment, machine, succeed, timed

DRIVER = """
import json, resource, sys
from pathlib import Path
from ratchet.flows.cli import main
code = main(sys.argv[1:])
(own,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print()
print(json.dumps([int(own) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
sys.exit(code)
"""


@dataclass(frozen=True)
class Peak:
    """One run's largest."""

    driver: float
    """MiB."""
    job: float
    """MiB, of the largest job."""
    mib: float
    """What the run published."""
    seconds: float


def peak(under: Path, rollouts: int, problems: int = 100) -> Peak:
    """A round with so many rollouts in its stage of synthesis."""
    root = under / str(rollouts)
    words = (
        *("--config-dir", str(HOUSE / "tests/toys/configs"), "experiment=toy", "recipe=rest_em", "rounds=1", "executor=local"),
        *(f"task.size={problems}", f"synthesis.samples={rollouts // problems}", "evaluation.samples=0"),
        *("synthesis.rows_per_shard=null", "verification.rows_per_shard=null"),
        *("--name", "memory", "--no-prefect", "--root", str(root)),
    )
    seconds, out = timed(lambda: succeed([sys.executable, "-c", DRIVER, "run", *words], env=environment()))
    driver, job = json.loads(out.splitlines()[-1])
    made = [json.loads(manifest.read_text()) for manifest in (root / ".ratchet/objects").glob("*/manifest.json")]
    most = max(manifest["rows"] for manifest in made)
    assert most == rollouts, f"the largest stage has {most} rows, not {rollouts}"
    return Peak(driver, job, sum(file["bytes"] for manifest in made for file in manifest["files"].values()) / 2**20, seconds)


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="multiples of 100")
    parser.add_argument("--under", type=Path, help="a folder on a disk (default: the temporary folder)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> dict[int, Peak]:
    """Measure and print; returns the peaks by the number of rollouts."""
    given = options(words)
    found = {}
    with disk(given.under) as folder:
        print(f"{machine()}")
        print(f"{'rollouts':>10}{'driver, MiB':>14}{'x first':>10}{'largest job, MiB':>18}{'published, MiB':>16}{'s':>8}")
        for rollouts in given.rollouts:
            found[rollouts] = one = peak(folder, rollouts)
            ratio = one.driver / found[given.rollouts[0]].driver
            print(f"{rollouts:10,}{one.driver:14.1f}{ratio:10.2f}{one.job:18.1f}{one.mib:16.1f}{one.seconds:8.1f}")
    return found


if __name__ == "__main__":
    main()
