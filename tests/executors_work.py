"""Work that misbehaves, as workers import it, and a pool without processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_lowrank.executors import Work
from onnx_lowrank.executors.executor import unpacked


def squares(shared: int, piece: int, threads: int) -> tuple[int, int]:
    return shared + piece**2, threads


def dies_once(shared: str, piece: int, threads: int) -> tuple[int, int]:
    """Return the piece and the threads; the first worker that gets piece 3 is killed."""
    mark = Path(shared)
    if piece == 3 and not mark.exists():
        mark.touch()
        os._exit(9)
    return piece, threads


def hangs_once(shared: str, piece: int, threads: int) -> int:
    """Return the piece, after a minute where it is not the first."""
    time.sleep(60 * (piece > 0))
    return piece


def refuses(shared: None, piece: int, threads: int) -> int:
    raise ValueError(f"piece {piece}")


class Instant:
    """A future that is done when it is asked for the first time, or never."""

    def __init__(self, value: Any, *, never: bool = False) -> None:
        self.value, self.never = value, never

    def result(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class Here:
    """Workers that are none: every piece is done at once, by what was pickled."""

    def __init__(self, work: Work, workers: int = 2) -> None:
        self.workers, self.closed = workers, False
        self.tell(work)
        self.futures: list[Instant] = []
        self.dropped: list[Instant] = []

    def tell(self, work: Work) -> None:
        packed = work.packed()
        self.read = lambda: packed

    def submit(self, piece: Any) -> Instant:
        function, shared = unpacked(self.read)
        try:
            self.futures.append(Instant(function(shared, piece, 1)))
        except ValueError as error:
            self.futures.append(Instant(error))
        return self.futures[-1]

    def done(self, futures: Sequence[Instant], seconds: float) -> list[Instant]:
        ready = [future for future in futures if not future.never]
        if not ready:
            time.sleep(min(seconds, 0.01))
        return ready[-1:]  # the last one first, so that results are not in order

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, ConnectionError)

    def drop(self, futures: Sequence[Instant]) -> None:
        self.dropped += futures

    def close(self) -> None:
        self.closed = True
