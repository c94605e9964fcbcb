"""`python peak.py COMMAND…`: run a command and print its exit code, seconds, peak memory and last words as JSON.

A process of its own, and a small one: on Linux a child's peak starts at the size of the process that started it, so
that the peak of a run started by the benchmark itself would be the benchmark's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ru_maxrss."""


def main() -> None:
    """Run the command; what it prints goes to standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        errors.seek(0)
        words = errors.read()
    sys.stderr.write(words)
    code, last = os.waitstatus_to_exitcode(status), (words.strip().splitlines() or [""])[-1]
    process.returncode = code
    print(json.dumps({"exit": code, "seconds": seconds, "peak_bytes": usage.ru_maxrss * UNIT, "last": last}))


if __name__ == "__main__":
    main()
