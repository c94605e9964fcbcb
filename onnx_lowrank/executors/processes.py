"""Processes on this machine."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_lowrank.executors.executor import Work, unpacked


class ProcessPool:
    """`workers` processes, each with its share of the threads; what they share is pickled once, to a file."""

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self._threads = max((threads or os.cpu_count() or 1) // workers, 1)
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-lowrank-")
        self._work, self._told = FromFile(Path(self._folder.name) / "work"), 0
        self._pool = self._new()

    def tell(self, work: Work) -> None:
        """Have the processes do another work from here on."""
        old, self._work = self._work, FromFile(Path(self._folder.name) / f"work-{self._told}")
        self._told += 1
        self._work.path.write_bytes(work.packed())
        old.path.unlink(missing_ok=True)

    def _new(self) -> concurrent.futures.ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # onnxruntime's threads do not live through a fork
        return concurrent.futures.ProcessPoolExecutor(self.workers, context, _unheard)

    def submit(self, piece: Any) -> concurrent.futures.Future[Any]:
        """Return the future of a piece."""
        try:
            return self._pool.submit(_run, self._work, piece, self._threads)
        except BrokenProcessPool:  # a worker died since the last look
            self._pool = self._new()
            return self._pool.submit(_run, self._work, piece, self._threads)

    def done(self, futures: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return those that are done, after so many seconds at the latest."""
        return list(concurrent.futures.wait(futures, seconds, concurrent.futures.FIRST_COMPLETED).done)

    def lost(self, error: BaseException) -> bool:
        """Return whether a worker is gone. With one of them the pool gives up all: there is a new one."""
        return isinstance(error, BrokenProcessPool)

    def drop(self, futures: Sequence[Any]) -> None:
        """Give up pieces that have not begun."""
        for future in futures:
            future.cancel()

    def close(self) -> None:
        """Stop the processes; a piece that nobody waits for is not finished."""
        processes = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        self._folder.cleanup()


def _unheard() -> None:
    """Leave Ctrl-C to the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class FromFile:
    """What all pieces share, in a file; read once a process."""

    path: Path

    def __call__(self) -> bytes:
        """Return its bytes."""
        return self.path.read_bytes()


def _run(source: FromFile, piece: Any, threads: int) -> Any:
    function, shared = unpacked(source)
    return function(shared, piece, threads)
