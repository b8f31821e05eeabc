"""Machines whose clocks are wrong: a driver and jobs that see another time than the machine's, each node its own.

`RATCHET_TEST_CLOCKS` names a JSON file, from a node's name (or `driver`) to the seconds by which its clock is ahead; whoever starts
reads it. Run as `python clock.py [-OPTION…] -m MODULE [WORD…]` it stands for the interpreter on a node.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def set_clock(whose: str) -> None:
    """From now on `time.time` of this process is ahead, or behind."""
    ahead = json.loads(Path(os.environ["RATCHET_TEST_CLOCKS"]).read_text()).get(whose, 0)
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + ahead
    time.time_ns = lambda: real_ns() + int(ahead * 1e9)


def main(words: Sequence[str]) -> int:
    """`ratchet` on a machine whose clock is wrong."""
    set_clock("driver")
    from ratchet.flows.cli import main as ratchet

    return ratchet(words)


if __name__ == "__main__":
    set_clock(os.environ["SLURMD_NODENAME"])
    module, *words = sys.argv[sys.argv.index("-m") + 1 :]
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
