"""What submitit starts inside a SLURM job: the command line of the executor's `Job`, in this very process.

The payload that submitit pickles is this function by its name, and plain texts: no code, no environment, no secrets.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ratchet.infra.scheduler import Scheduler
from ratchet.interruption import TRY_AGAIN, asked


def run_in_job(arguments: Sequence[str], log: str) -> None:
    """Run `MODULE ARGUMENT…`, printing into the attempt's log; a job that was warned of its walltime puts itself back into the queue."""
    with Path(log).open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    module, *words = arguments
    code = importlib.import_module(module).main(words)
    if code == TRY_AGAIN and asked() == signal.SIGUSR2:
        Scheduler().requeue(job_id())
    if code:
        sys.exit(code)


def job_id() -> str:
    """This job's id as the scheduler's commands take it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
