"""What is certified of a drop: its one-sided upper confidence bound, by the test that fits the metric's values."""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank import statistics
from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics.estimate import (
    Measured,
    aggregate_drops,
    base_of,
    best_of,
    by_group,
    units_of,
    worse_and_better,
)
from onnx_lowrank.metrics.metric import Metric
from onnx_lowrank.metrics.traits import bounds_of
from onnx_lowrank.types import Bound


def bound_of(
    metric: Metric, original: Measured, candidate: Measured, gate: Gate, allowed: float, *, seed: int
) -> Bound:
    """Return the smallest drop that is certified: every larger one is rejected at the gate's confidence, one-sided.

    Right-or-wrong values: exact. Values within the metric's `bounds`: a bet that is valid for every distribution. Any
    other value a sample: Hall's skewness-corrected t; one number for the whole set: a bootstrap, lengthened by
    skewness; both asymptotic.
    """
    relative, alpha = gate.drop_type == "relative", gate.alpha
    base_of(metric, original, relative=relative)  # raises where a relative drop has no meaning
    if isinstance(original.values, float) or isinstance(candidate.values, float):
        estimate, drops, span = aggregate_drops(metric, original, candidate, relative=relative)
        high = statistics.aggregate_bound(estimate, drops, units_of(original), alpha, span)
        return Bound(high, 1 - alpha, "bootstrap", exact=False)
    if not np.isfinite(candidate.values).all() or not np.isfinite(original.values).all():
        return Bound(math.inf, 1 - alpha, "none", exact=False)
    if not relative:
        return _bound(metric, original, candidate, alpha, allowed, seed)
    if original.known:
        base = abs(best_of(metric))
    else:  # the divisor is taken at its own lower bound, at a tenth of what may go wrong
        base, alpha = _least_size(metric, original, 0.1 * alpha, seed), 0.9 * alpha
    if base <= 0:
        return Bound(math.inf, gate.level, "none", exact=False)
    found = _bound(metric, original, candidate, alpha, allowed * base, seed)
    return Bound(found.value / base, gate.level, found.method, found.exact)


def _bound(metric: Metric, original: Measured, candidate: Measured, alpha: float, allowed: float, seed: int) -> Bound:
    """Return the bound of an absolute drop of values a sample, all finite."""
    n, groups, bounds = original.n, original.groups, bounds_of(metric)
    worse, better = worse_and_better(metric, original, candidate)
    if original.known:
        worse, better = np.abs(best_of(metric) - np.asarray(candidate.values)), np.zeros(n)
    if groups is None and statistics.binary(worse, better):
        lost, gained = int((worse > better).sum()), int((worse < better).sum())
        if original.known:
            return Bound(statistics.share_bound(lost, n, alpha), 1 - alpha, "Clopper-Pearson", exact=True)
        high = statistics.difference_bound(lost, gained, n, alpha, allowed)
        return Bound(high, 1 - alpha, "exact paired test", exact=True)
    if bounds is not None:
        size = bounds[1] - bounds[0]
        low = 0.0 if original.known else -size
        values, sizes = (worse - better, None) if groups is None else statistics.grouped(worse - better, groups)
        high = statistics.betting_bound(values, low, size, alpha, seed=seed, sizes=sizes)
        return Bound(high, 1 - alpha, "betting on bounded values", exact=True)
    apart = worse - better if groups is None else by_group(worse - better, groups)
    span = statistics.span_of(worse, better)
    return Bound(statistics.mean_interval(apart, 1 - 2 * alpha, span).high, 1 - alpha, "skewness-corrected t", False)


def _least_size(metric: Metric, original: Measured, alpha: float, seed: int) -> float:
    """Return the lower bound of the size of the original's mean value, one-sided at 1 − alpha."""
    values, groups, bounds = np.asarray(original.values), original.groups, bounds_of(metric)
    sign = math.copysign(1.0, original.estimate)
    if groups is None and statistics.binary(values):
        return 1 - statistics.share_bound(int((values == 0).sum()), len(values), alpha)
    if bounds is not None:
        low, high = sorted((-sign * bounds[0], -sign * bounds[1]))
        means, sizes = (-sign * values, None) if groups is None else statistics.grouped(-sign * values, groups)
        return -statistics.betting_bound(means, low, high, alpha, seed=seed, sizes=sizes)
    apart = sign * values if groups is None else by_group(sign * values, groups)
    return statistics.mean_interval(apart, 1 - 2 * alpha).low
