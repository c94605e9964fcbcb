"""A real dask scheduler with worker processes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from executors_work import dies_once, hangs_once, squares

from onnx_lowrank.errors import RuntimeProblem
from onnx_lowrank.executors import Work, in_order, opened

distributed = pytest.importorskip("distributed")
HERE = Path(__file__).resolve().parents[2]


@contextmanager
def processes(*commands: list[str], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run commands beside the test; none is left behind it."""
    paths = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "DASK_TEMPORARY_DIRECTORY": str(folder)}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()


def scheduler(folder: Path) -> list[str]:
    own = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(folder / "scheduler.json")]
    return [sys.executable, "-m", "distributed.cli.dask_scheduler", *own]


def worker(folder: Path) -> list[str]:
    own = ["--nthreads", "1", "--nworkers", "1", "--no-dashboard", "--scheduler-file", str(folder / "scheduler.json")]
    return [sys.executable, "-m", "distributed.cli.dask_worker", *own]


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Give a scheduler with so many workers: its address, and the processes, the scheduler first."""
    with processes(scheduler(folder), *[worker(folder)] * workers, folder=folder) as started:
        with distributed.Client(scheduler_file=str(folder / "scheduler.json"), timeout=60) as client:
            client.wait_for_workers(workers, timeout=60)
            address = client.scheduler.address
        yield address.replace("tcp://", "dask://"), started


def test_pieces_are_done_by_a_cluster_though_workers_die(tmp_path):
    with cluster(tmp_path, 2) as (address, started):
        with opened(address, Work(squares, 7), threads=1) as pool:
            assert pool.workers == 2
            assert list(in_order(pool, range(9))) == [(7 + i * i, 1) for i in range(9)]
        with opened(address, Work(dies_once, str(tmp_path / "mark")), threads=1) as pool:
            assert list(in_order(pool, range(5))) == [(i, 1) for i in range(5)]
        assert (tmp_path / "mark").exists()
        with opened(address, Work(hangs_once, str(tmp_path / "hung")), threads=1) as pool:
            results = in_order(pool, range(5))
            assert next(results) == 0
            started[0].kill()
            started[0].wait()
            began = time.monotonic()
            with pytest.raises(RuntimeProblem, match=r"the dask scheduler at .* has gone; with --cache"):
                list(results)
            assert time.monotonic() - began < 60
