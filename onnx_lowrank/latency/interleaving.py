"""Several models in turns, against the first: what slows the machine down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from onnx_lowrank.runtime.timing import LEAST_PAIRS, WARM_UP, Runs, turn
from onnx_lowrank.statistics import LEVEL, median_interval
from onnx_lowrank.types import Array, Feed

SECONDS = 3.0
"""Wall time for one group, at most, once LEAST_PAIRS rounds are done."""
TIGHT = 0.02
"""Half the width of a ratio's interval (relative) at which it is known well enough."""
MOST_ROUNDS = 60


def rounds_of(
    timed: Sequence[tuple[Runs, Feed]],
    *,
    against: int,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Array:
    """Return (rounds, models) seconds a call, one turn of every model a round, there and back again.

    Stops when the interval of every model's ratio to model `against` is TIGHT, after `seconds` of `clock`, or after
    MOST_ROUNDS; not before LEAST_PAIRS. Raises RuntimeProblem where a model fails.
    """
    for runner, feed in timed:
        for _ in range(WARM_UP):
            runner.run(feed)
    rows: list[Array] = []
    start = clock()
    while len(rows) < MOST_ROUNDS:
        order = range(len(timed)) if len(rows) % 2 == 0 else reversed(range(len(timed)))
        row = np.empty(len(timed))
        for index in order:
            row[index] = turn(*timed[index], clock)
        rows.append(np.maximum(row, 1e-9))  # a clock may not advance between two calls
        if len(rows) >= LEAST_PAIRS and (clock() - start >= seconds or _tight(np.array(rows), against)):
            break
    return np.array(rows)


def shares(rounds: Array) -> Array:
    """Return the median ratio (models,) of every model to the first, round by round."""
    ratio: Array = np.median(rounds / rounds[:, :1], axis=0)
    return ratio


def _tight(rounds: Array, against: int) -> bool:
    logs = np.log(rounds / rounds[:, against : against + 1])
    return all(median_interval(column, LEVEL).width <= 2 * TIGHT for column in logs.T)
