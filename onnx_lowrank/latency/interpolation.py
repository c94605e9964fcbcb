"""Time over multiply-accumulates: which ranks to measure, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.types import Array

TRIED = 4
"""Ranks measured of a scheme at a site, at most; the smallest and the largest are among them."""


def spread(macs: Sequence[float], most: int = TRIED) -> list[int]:
    """Return at most `most` indices, evenly spread over the MACs, those of the least and the most included."""
    if not macs:
        return []
    values = np.asarray(macs, np.float64)
    targets = np.linspace(values.min(), values.max(), most)
    return sorted({int(np.argmin(np.abs(values - target))) for target in targets})


def rising(values: Sequence[float]) -> list[float]:
    """Return the nearest sequence, in least squares, that never falls (pool adjacent violators).

    Noise of a measurement must not make more work appear faster than less.
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((float(value), 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (low, n), (high, m) = pools[-2:]
            pools[-2:] = [((low * n + high * m) / (n + m), n + m)]
    return [value for value, count in pools for _ in range(count)]


def between(macs: Sequence[float], times: Sequence[float], at: Sequence[float]) -> Array:
    """Return the times (n,) at the MACs `at`: linear between what was measured, never falling with the MACs."""
    order = np.argsort(np.asarray(macs, np.float64), kind="stable")
    known = np.asarray(macs, np.float64)[order]
    return np.interp(np.asarray(at, np.float64), known, rising([times[i] for i in order]))
