"""Executors by what users write: `local:4`, `dask://scheduler:8786`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnx_lowrank.executors.dask_cluster import DaskPool
from onnx_lowrank.executors.executor import Pool, Work
from onnx_lowrank.executors.processes import ProcessPool
from onnx_lowrank.options import EXECUTOR


@contextmanager
def opened(spec: str, work: Work | None, threads: int) -> Iterator[Pool]:
    """Give workers that have been told the work, if there is some. threads: that they may use here together; 0: all.

    Raises GoalError where dask is not installed, RuntimeProblem where no scheduler answers.
    """
    found = EXECUTOR.fullmatch(spec)
    if found is None:
        raise ValueError(f"no executor: {spec!r}")
    count, address = found.groups()
    pool: Pool = ProcessPool(int(count), threads) if count else DaskPool(f"tcp://{address}")
    try:
        if work is not None:
            pool.tell(work)
        yield pool
    finally:
        pool.close()
