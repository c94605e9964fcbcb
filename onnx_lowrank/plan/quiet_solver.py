"""HiGHS writes to the process's standard output, whatever its options are: suppressed where that is asked for.

(`HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();`, scipy 1.17.) Only file descriptor 1 itself
can be redirected, and with it whatever other threads write meanwhile. So a library leaves it alone; the command line,
whose standard output is its own, asks for it by `hold_back`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_held_back = False


def hold_back() -> None:
    """Have `silent` turn standard output away, from now on in this process."""
    global _held_back
    _held_back = True


@contextmanager
def silent() -> Iterator[None]:
    """Hold back what HiGHS writes to the process's standard output, where `hold_back` was called; else do nothing."""
    try:
        saved_stdout = os.dup(1) if _held_back else None
    except OSError:  # no standard output at all
        saved_stdout = None
    if saved_stdout is None:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stdout.flush()
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(saved_stdout, 1)
        os.close(saved_stdout)
        os.close(nowhere)
