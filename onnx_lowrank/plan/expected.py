"""What a plan is expected to lose: its predicted loss, and what plans of other sizes were measured to lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_lowrank.types import Array

LEAST = 1e-9
"""Losses below this are equal: rounding of float32."""
SPREAD, LEAST_ERROR = 0.35, 0.1
"""How far predictions are off before anything is measured, as a logarithm; the least error that is believed."""


def expected_loss(predicted: float, measured: Sequence[tuple[float, float, float]], optimism: float = 1.0) -> float:
    """Return the loss to be expected of a plan, from (predicted, measured, its standard error) of others.

    The ratio of both is what is corrected, as far as it is known: where nothing was measured it is `optimism`, within a
    factor of e^SPREAD, and a measurement counts for more the smaller its error. In between it is interpolated in the
    logarithm of the prediction, outside it is constant, and a plan that is predicted to lose more is never expected to
    lose less.
    """
    known = sorted((max(p, LEAST), _likely(max(p, LEAST), m, error, optimism)) for p, m, error in measured)
    if not known or predicted <= 0:
        return predicted * optimism
    x, y = (np.log(np.array(values)) for values in zip(*known, strict=True))
    y = never_falling(y)
    at = math.log(max(predicted, LEAST))
    return math.exp(float(np.interp(at, x, y)) + min(at - x[0], 0.0) + max(at - x[-1], 0.0))


def _likely(predicted: float, measured: float, error: float, optimism: float) -> float:
    """Return the loss that both a prediction and a measurement speak for, in logarithms."""
    measured = max(measured, LEAST)
    noise = min(max(error / measured, LEAST_ERROR), 1.0) ** 2
    share = SPREAD**2 / (SPREAD**2 + noise)
    return math.exp(share * math.log(measured) + (1 - share) * math.log(optimism * predicted))


def never_falling(values: Array) -> Array:
    """Return the nearest sequence, in least squares, that never falls (pool adjacent violators)."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([float(value)])
        while len(pools) > 1 and float(np.mean(pools[-2])) > float(np.mean(pools[-1])):
            last = pools.pop()
            pools[-1] += last
    return np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools])
