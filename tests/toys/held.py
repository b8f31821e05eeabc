"""A job of the simplest kind: waits to be let go, then writes the file it was given, and ends as it was told.

python -m tests.toys.held FILE [exit code or `kill` or `sleep`] --held
"""

import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    path, how, _ = sys.argv[1:]
    if sys.stdin.buffer.readline():
        Path(path).write_text(f"{os.environ['OMP_NUM_THREADS']} {os.getsid(0) == os.getpid()}")
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "sleep":
            time.sleep(30)
        sys.exit(int(how))
