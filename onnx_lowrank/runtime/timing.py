"""Interleaved latency: two models in turn on the same inputs, so that what slows the machine down slows both.

Timings on a shared machine swing by a factor of 2 to 4 between runs; the ratio within a pair does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.statistics import LEVEL, median_interval
from onnx_lowrank.types import Array, Feed, Interval

LEAST_PAIRS = 6
"""Fewer pairs have no 95 % interval of a median: 2 · 2⁻⁶ is .031."""
WARM_UP = 2
"""Calls of each model before the clock: memory is planned and kernels are chosen in the first."""
SETTLE_CALLS, SETTLE_LEAST, SETTLE_MOST = 8, 0.005, 0.1
"""A model runs untimed at the start of its turn: so many calls, for so many seconds at least and at most.

Its weights have left the caches in the meantime, and its threads have gone to sleep: of CREPE (89 MB, two threads) the
first calls took 10.9, 10.6, 10.5 and 10.2 ms, the tenth 9.7.
"""
TURN = 0.02
"""Seconds that are timed then, at least one call."""
MOST_CALLS = 1000
"""In a turn, however little time has passed."""


class Runs(Protocol):
    """What is timed: a Runner, or anything with its `run` that is idle `rest` seconds after a call."""

    @property
    def rest(self) -> float:
        """Seconds to wait before anything else is timed."""
        ...

    def run(self, feed: Feed) -> dict[str, Array]:
        """Return the outputs."""
        ...


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians of two models' latencies, milliseconds a call, and of their ratio, second to first, pair by pair.

    A ratio under 1 says that the second is faster; if its interval holds 1, neither is shown. The interval is that
    of the sign test at `ratio.level`: 0 to inf where there are fewer than LEAST_PAIRS pairs.
    """

    first_ms: float
    second_ms: float
    ratio: Interval
    pairs: int


def interleaved(
    a: Runs,
    b: Runs,
    feeds: Sequence[Feed],
    *,
    rounds: int = 200,
    seed: int,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Return the latency of `b` against `a`: A B, B A, A B, … on the same feeds, in a seeded order, over and over.

    A round is one pair of turns; a turn settles and is then timed (`turn`). It stops after `rounds` of them or after
    `seconds` of wall time, whichever is first, but not before LEAST_PAIRS (or `rounds`, where that is less).
    `clock` gives seconds. Raises DataError without feeds, RuntimeProblem where a model fails.
    """
    if not len(feeds) or rounds < 1:
        raise DataError("nothing to time: at least one sample and one round are needed")
    order = np.random.default_rng(seed).permutation(len(feeds))
    first = feeds[int(order[0])]
    for runner in (a, b) * WARM_UP:
        runner.run(first)
    times: list[tuple[float, float]] = []
    start = clock()
    while len(times) < rounds and (len(times) < LEAST_PAIRS or clock() - start < seconds):
        feed = feeds[int(order[len(times) % len(feeds)])]
        if len(times) % 2:
            second = turn(b, feed, clock)
            times.append((turn(a, feed, clock), second))
        else:
            times.append((turn(a, feed, clock), turn(b, feed, clock)))
    return _summary(np.array(times))


def turn(runner: Runs, feed: Feed, clock: Callable[[], float]) -> float:
    """Return the mean seconds of a call, once the model has the machine to itself; then let its threads fall asleep.

    The mean: a median would hide interruptions from the model of many short calls, and only from that one.
    """
    calls, spent, start = 0, 0.0, clock()
    while not calls or ((calls < SETTLE_CALLS or spent < SETTLE_LEAST) and spent < SETTLE_MOST and calls < MOST_CALLS):
        runner.run(feed)
        calls, spent = calls + 1, clock() - start
    calls, spent, start = 0, 0.0, clock()
    while not calls or (spent < TURN and calls < MOST_CALLS):
        runner.run(feed)
        calls, spent = calls + 1, clock() - start
    if runner.rest:
        time.sleep(runner.rest)
    return spent / calls


def _summary(times: Array) -> Timing:
    """Return the medians of (pairs, 2) seconds."""
    floor = np.maximum(times, 1e-9)  # a clock may not advance between two calls
    ratio = median_interval(np.log(floor[:, 1] / floor[:, 0]), LEVEL)
    milliseconds = np.median(times, axis=0) * 1e3
    return Timing(
        float(milliseconds[0]),
        float(milliseconds[1]),
        Interval(math.exp(ratio.estimate), math.exp(ratio.low), math.exp(ratio.high), ratio.level),
        len(times),
    )
