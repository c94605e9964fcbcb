"""An upper bound of the mean of bounded values, valid for every n and every distribution: betting against it.

A gambler who bets that the mean is below μ, by fractions fixed before each value is seen, has a wealth that is a
non-negative supermartingale while the mean is μ or more; by Ville's inequality it ever reaches 1/α with a chance of at
most α (Waudby-Smith and Ramdas, JRSS B 86, 2024). The bound is the smallest μ that he beats. He may stop as soon as he
has won, so a look at any time costs nothing.
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank.types import Array

BOLDEST = 0.95
"""The share of what could be lost at once that is ever staked."""


def betting_bound(
    values: Array, low: float, high: float, alpha: float, *, seed: int, sizes: Array | None = None
) -> float:
    """Return the upper bound, at one-sided level 1 − `alpha`, of the mean of (n,) values in [low, high].

    The order of play is drawn by `seed`. sizes: (n,) samples that each value is the mean of, where samples come in
    groups; the bound is then of the mean over samples. Raises ValueError for a value out of range.
    """
    if values.min() < low - 1e-9 * (high - low) or values.max() > high + 1e-9 * (high - low):
        raise ValueError(f"values from {values.min()} to {values.max()} are not between {low} and {high}")
    order = np.random.default_rng(seed).permutation(len(values))
    x = np.clip((values[order] - low) / (high - low), 0.0, 1.0)
    weights = np.ones(len(x)) if sizes is None else sizes[order] / sizes.max()
    lowest, highest = float(weights @ x / weights.sum()), 1.0
    if not beaten(x, weights, 1 - 1e-12, alpha):
        return high
    for _ in range(40):
        middle = (lowest + highest) / 2
        if beaten(x, weights, middle, alpha):
            highest = middle
        else:
            lowest = middle
        if highest - lowest < 1e-7:
            break
    return low + highest * (high - low)


def beaten(x: Array, weights: Array, mean: float, alpha: float) -> bool:
    """Return whether the wealth against `mean` ever reaches 1/α: half of it played by each of two rules.

    One stakes what would have grown fastest so far, the other what is best where n values are to just suffice.
    """
    n = len(x)
    seen = np.arange(n)
    average = (0.5 + np.concatenate([[0.0], np.cumsum(x)[:-1]])) / (seen + 1)
    spread = (0.25 + np.concatenate([[0.0], np.cumsum((x - average) ** 2)[:-1]])) / (seen + 1)
    gap = np.maximum(mean - average, 0.0)
    most = BOLDEST / (1 - mean)
    stakes = (gap / (spread + gap**2), np.sqrt(2 * math.log(1 / alpha) / (n * spread)))
    logs = [np.cumsum(np.log1p(np.clip(stake, 0.0, most) * weights * (mean - x))) for stake in stakes]
    wealth = np.logaddexp(logs[0], logs[1]) - math.log(2)
    return bool(wealth.max() >= math.log(1 / alpha))
