"""`python peak.py COMMAND…`: run a command and print its exit code, seconds and peak memory as one line of JSON.

A process of its own, and a small one: on Linux a child's peak starts at the size of the process that started it, so
that the peak of a run started by the benchmark itself would be the benchmark's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ru_maxrss."""


def main() -> int:
    """Run the command; what it prints goes to standard error."""
    start = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    print(json.dumps({"exit": process.returncode, "seconds": seconds, "peak_bytes": usage.ru_maxrss * UNIT}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
