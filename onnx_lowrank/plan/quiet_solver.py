"""A solver that writes to the process's standard output, whatever its options say: held back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent() -> Iterator[None]:
    """Hold back what HiGHS writes to the process's standard output, whatever its options say.

    (`HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();`, scipy 1.17.)
    """
    try:
        kept = os.dup(1)
    except OSError:  # no standard output at all
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stdout.flush()
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
