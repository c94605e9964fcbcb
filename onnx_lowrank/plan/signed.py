"""The signed first-order term, cross-fitted: part of a curve only where both halves of the calibration data agree.

The paper chooses by ⟨G, δ⟩ (arXiv 2412.06867). Taken from few samples, choosing what looks loss-decreasing selects
noise (docs/method.md, section 3.7). So a term needs the same sign in both halves, and is shrunk by its standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.types import Array, Curve


def signed(curves: Sequence[Curve], slopes: Mapping[str, tuple[Array, Array]]) -> tuple[Curve, ...]:
    """Return the curves with `agreed` slopes added to the losses, which may become negative (`solve` takes that).

    slopes: site id -> per-sample slopes of both halves, (n_a, options) and (n_b, options), one column an option in
    order; their mean is the first-order change of the loss (positive: it rises), in the unit of `Option.loss`. A site
    that is not in it keeps its losses; so does the dense option. Raises ValueError where shapes do not fit.
    """
    return tuple(_signed(curve, *slopes[curve.site]) if curve.site in slopes else curve for curve in curves)


def _signed(curve: Curve, half: Array, other: Array) -> Curve:
    for samples in (half, other):
        if samples.ndim != 2 or samples.shape[1] != len(curve.options):
            raise ValueError(f"slopes of {curve.site!r} have shape {samples.shape}, not (n, {len(curve.options)})")
    terms = agreed(half, other)
    options = (
        option if option.dense else replace(option, loss=option.loss + float(term))
        for option, term in zip(curve.options, terms, strict=True)
    )
    return replace(curve, options=tuple(options))


def agreed(half: Array, other: Array) -> Array:
    """Return the cross-fitted slopes (options,) of samples (n_a, options) and (n_b, options).

    Both halves' means negative: the one closer to 0, plus its standard error, at most 0. Both positive: the mean of all
    samples minus its standard error, at least 0. Otherwise 0, and where a half has fewer than two samples.
    """
    half, other = np.asarray(half, np.float64), np.asarray(other, np.float64)
    if min(len(half), len(other)) < 2:
        return np.zeros(half.shape[1])
    (first, first_error), (second, second_error) = _mean(half), _mean(other)
    nearer = np.where(first >= second, first + first_error, second + second_error)
    pooled, pooled_error = _mean(np.concatenate([half, other]))
    falling = np.where((first < 0) & (second < 0), np.minimum(nearer, 0.0), 0.0)
    rising = np.where((first > 0) & (second > 0), np.maximum(pooled - pooled_error, 0.0), 0.0)
    terms: Array = falling + rising
    return terms


def _mean(samples: Array) -> tuple[Array, Array]:
    """Return mean and standard error (options,) of (n, options), n ≥ 2."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
