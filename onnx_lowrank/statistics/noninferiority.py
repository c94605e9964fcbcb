"""Is a paired drop of right-or-wrong values smaller than δ? A test that keeps its level for every n, and its inverse.

H0: P(lost) − P(gained) ≥ δ. Outcomes are ordered by Tango's score statistic (Statistics in Medicine 17, 1998); the
p-value is the exact trinomial tail, at the worst value of the nuisance (how many pairs differ at all) within its exact
1 − GAMMA interval, plus GAMMA (Berger and Boos, JASA 89, 1994; for this test Hsueh, Liu and Chen, Biometrics 57, 2001).
So counts that are tiny need no other test, and where the tail is too long to sum the score test itself is used.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import stats

from onnx_lowrank.types import Array

GAMMA = 1e-4
"""The level that is spent on the interval of the nuisance."""
NUISANCES = 41
"""Values of the nuisance that the largest tail is looked for at, evenly spaced in its square root."""
LONGEST = 4000
"""Pairs that differ, at most, for which tails are summed; beyond, the score test is exact to three digits."""
TAIL = 1e-12
"""What is left out of a sum over the pairs that differ."""


def tango_statistic(lost: Array, gained: Array, n: int, difference: float) -> Array:
    """Return Tango's score statistic of H0 `difference`, elementwise; low where the drop is shown to be smaller."""
    b, c = np.asarray(lost, np.float64), np.asarray(gained, np.float64)
    linear = (b + c) * (1 - difference) - 2 * difference * (c + n - b - c)
    root = (linear + np.sqrt(np.maximum(linear**2 + 8 * n * c * difference * (1 - difference), 0))) / (4 * n)
    gain = np.clip(root, max(0.0, -difference), (1 - difference) / 2)
    variance = n * (2 * gain + difference * (1 - difference))
    result: Array = (b - c - n * difference) / np.sqrt(np.maximum(variance, 1e-300))
    return result


@functools.lru_cache(maxsize=65536)
def difference_p_value(lost: int, gained: int, n: int, difference: float) -> float:
    """Return the p-value of H0 P(lost) − P(gained) ≥ `difference`, from `lost` and `gained` pairs of n.

    Exact (never below the true one) up to the grid of the nuisance; see the module.
    """
    share_low, share_high = _differing(lost + gained, n)
    low = max((share_low - difference) / 2, 0.0, -difference)
    high = min((share_high - difference) / 2, (1 - difference) / 2)
    if high < low:  # so few pairs differ that the drop cannot be as large, whatever the balance among them
        return GAMMA
    longest = int(stats.binom.ppf(1 - TAIL, n, min(2 * high + difference, 1.0))) + 1
    observed = float(tango_statistic(np.array(lost), np.array(gained), n, difference))
    if longest > LONGEST:
        return float(stats.norm.cdf(observed))
    pairs = np.arange(min(longest, n) + 1)
    most = _most_lost(pairs, n, difference, observed)
    gains = np.linspace(math.sqrt(low), math.sqrt(high), NUISANCES) ** 2
    return min(float(_tails(pairs, most, n, difference, gains).max()) + GAMMA, 1.0)


def _differing(pairs: int, n: int) -> tuple[float, float]:
    """Return the exact interval, at 1 − GAMMA, of the share of pairs that differ."""
    low = float(stats.beta.ppf(GAMMA / 2, pairs, n - pairs + 1)) if pairs else 0.0
    high = float(stats.beta.ppf(1 - GAMMA / 2, pairs + 1, n - pairs)) if pairs < n else 1.0
    return low, high


def _most_lost(pairs: Array, n: int, difference: float, observed: float) -> Array:
    """Return, for every number of differing pairs, the most lost ones at which the statistic is as low as observed.

    −1 where it never is; by bisection, as the statistic rises with the lost among as many pairs.
    """
    slack = 1e-9 * max(abs(observed), 1.0)
    low, high = np.full(len(pairs), -1), pairs.astype(np.int64)
    while (low < high).any():
        middle = (low + high + 1) // 2
        low_enough = tango_statistic(middle, pairs - middle, n, difference) <= observed + slack
        low, high = np.where(low_enough, middle, low), np.where(low_enough, high, middle - 1)
    return low


def _tails(pairs: Array, most: Array, n: int, difference: float, gains: Array) -> Array:
    """Return (gains,) P(statistic as low as observed) where P(gained) is that: sums of binomial tails."""
    either = np.minimum(2 * gains + difference, 1.0)[:, None]
    lost = np.divide(gains[:, None] + difference, either, out=np.zeros_like(either), where=either > 0)
    weights = stats.binom.pmf(pairs, n, either)  # where nothing differs: all on 0 pairs
    tails: Array = np.sum(weights * stats.binom.cdf(most, pairs, np.clip(lost, 0.0, 1.0)), axis=1)
    return tails


def difference_bound(lost: int, gained: int, n: int, alpha: float, at: float | None = None) -> float:
    """Return the smallest difference that is rejected at `alpha`: P(lost) − P(gained) is below it, one-sided.

    By bisection to 1e-6, rounded up, so that the bound itself is rejected; never above `at` where that is rejected.
    """
    low, high = (lost - gained) / n, 1.0
    if at is not None and low < at < 1 and difference_p_value(lost, gained, n, at) <= alpha:
        high = at
    elif low >= 1 or difference_p_value(lost, gained, n, 1 - 1e-9) > alpha:
        return 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        if difference_p_value(lost, gained, n, middle) <= alpha:
            high = middle
        else:
            low = middle
    return high


def share_bound(count: int, n: int, alpha: float) -> float:
    """Return Clopper and Pearson's one-sided upper bound of a share: `count` of n had it."""
    return float(stats.beta.ppf(1 - alpha, count + 1, n - count)) if count < n else 1.0
