"""What an executor is, and the loop that keeps it busy: workers may die, and one may be too slow."""

from __future__ import annotations

import functools
import pickle
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onnx_lowrank.errors import RuntimeProblem

ATTEMPTS = 3
"""So many workers may die on one piece before it is the piece that is to blame."""
TICK = 0.5
"""Seconds after which slow pieces are looked at, where nothing is done meanwhile."""
AHEAD = 4
"""Results that wait for an earlier one are in memory: no more than so many times as many as there are workers."""
SLOW, LEAST = 3.0, 5.0
"""A piece that takes so many times the median of the others, and so many seconds, is begun on another worker, too."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A function of a module, (shared, piece, threads) -> result, and what all pieces share: both can be pickled.

    threads: what a worker may use. Results do not depend on which worker makes them.
    """

    function: Callable[[Any, Any, int], Any]
    shared: Any

    def packed(self) -> bytes:
        """Return what is sent to a worker, once."""
        return pickle.dumps((self.function, self.shared), protocol=pickle.HIGHEST_PROTOCOL)


@functools.lru_cache(1)
def unpacked(read: Callable[[], bytes]) -> tuple[Callable[[Any, Any, int], Any], Any]:
    """Return the function and what is shared, as a worker has it: the same objects for every piece of it."""
    found: tuple[Callable[[Any, Any, int], Any], Any] = pickle.loads(read())
    return found


class Pool(Protocol):
    """Workers, and the work that they have been told last."""

    workers: int

    def tell(self, work: Work) -> None:
        """Have workers do another work from here on; nothing of the last one may be waited for."""
        ...

    def submit(self, piece: Any) -> Any:
        """Return the future of a piece."""
        ...

    def done(self, futures: Sequence[Any], seconds: float) -> Sequence[Any]:
        """Return those that are done, after so many seconds at the latest. Raises RuntimeProblem where all is lost."""
        ...

    def lost(self, error: BaseException) -> bool:
        """Return whether an error means that a worker is gone; there are workers again after that."""
        ...

    def drop(self, futures: Sequence[Any]) -> None:
        """Give up pieces that nobody waits for any more."""
        ...

    def close(self) -> None:
        """Stop the workers, or leave them."""
        ...


@dataclass(slots=True)
class _Piece:
    index: int
    began: float


def in_order(pool: Pool, pieces: Sequence[Any], said: Callable[[str], None] = lambda note: None) -> Iterator[Any]:
    """Yield the result of every piece, in order. `said` is told what became of workers.

    Raises RuntimeProblem where workers die again and again; what the function raises as it is.
    """
    waiting: dict[Any, _Piece] = {}
    results: dict[int, Any] = {}
    attempts, lengths = [0] * len(pieces), list[float]()
    todo, next_one, twice = deque(range(len(pieces))), 0, set[int]()
    try:
        while next_one < len(pieces):
            while todo and len(waiting) < pool.workers and todo[0] < next_one + AHEAD * pool.workers:
                index = todo.popleft()
                waiting[pool.submit(pieces[index])] = _Piece(index, time.monotonic())
            for future in pool.done(list(waiting), TICK):
                piece = waiting.pop(future)
                try:
                    result = future.result()
                except Exception as error:
                    if piece.index < next_one or piece.index in results:
                        continue  # the other copy was made
                    if not pool.lost(error):
                        raise
                    attempts[piece.index] += 1
                    if attempts[piece.index] >= ATTEMPTS:
                        raise RuntimeProblem(
                            f"{ATTEMPTS} workers died on the same samples ({type(error).__name__}): look for too"
                            " little memory, or run without --executor"
                        ) from error
                    said(f"a worker died; its samples went to another ({type(error).__name__})")
                    todo.appendleft(piece.index)
                    continue
                lengths.append(time.monotonic() - piece.began)
                if piece.index >= next_one:
                    results.setdefault(piece.index, result)
            if not todo and len(waiting) < pool.workers and lengths:
                _again(pool, pieces, waiting, twice, max(SLOW * statistics.median(lengths), LEAST))
            while next_one in results:
                yield results.pop(next_one)
                next_one += 1
    finally:
        pool.drop(list(waiting))


def _again(pool: Pool, pieces: Sequence[Any], waiting: dict[Any, _Piece], twice: set[int], seconds: float) -> None:
    """Begin the slowest piece on an idle worker, too: whichever is done first counts."""
    now = time.monotonic()
    slow = [piece for piece in waiting.values() if piece.index not in twice and now - piece.began > seconds]
    if slow:
        index = min(slow, key=lambda piece: piece.began).index
        twice.add(index)
        waiting[pool.submit(pieces[index])] = _Piece(index, now)
