"""A metric of one model, or the drop from one model to another, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank import statistics
from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.protocol import Labels, Metric, taken
from onnx_lowrank.types import Array, Interval, Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a metric said of one model on n samples.

    values: (n,) one a sample, or one float, the aggregate. replicates: (m,) the aggregate on m bootstrap resamples,
    nan where it has no value there; the same samples for every model; empty for values a sample.
    """

    values: Array | float
    n: int
    replicates: Array

    @property
    def estimate(self) -> float:
        """The metric."""
        with np.errstate(invalid="ignore"):
            return float(np.mean(self.values))

    @property
    def failed_resamples(self) -> int:
        """How many resamples gave no number."""
        return int((~np.isfinite(self.replicates)).sum())

    def without_number(self) -> Measured:
        """Return what a model has for which the metric fails."""
        values = math.nan if isinstance(self.values, float) else np.full(self.n, math.nan)
        return Measured(values, self.n, np.full(len(self.replicates), math.nan))


def measured(metric: Metric, outputs: Outputs, labels: Labels | None, reference: Outputs | None, seed: int) -> Measured:
    """Return the metric of n samples held in memory, with its resamples where it is an aggregate.

    An aggregate is called statistics.RESAMPLES (300) times more. Raises MetricError.
    """
    n = len(next(iter(outputs.values())))
    values = metric.values(outputs, labels, reference)
    if not isinstance(values, float):
        return Measured(values, n, np.zeros(0))
    replicates = []
    for indices in statistics.resamples(n, statistics.RESAMPLES, seed):
        drawn = None if reference is None else _drawn(reference, indices)
        try:
            value = metric.values(_drawn(outputs, indices), taken(labels, indices), drawn)
        except MetricError:  # a resample may lack what the metric needs: one class only, say
            value = math.nan
        replicates.append(value if isinstance(value, float) else math.nan)
    return Measured(values, n, np.array(replicates))


def _drawn(outputs: Outputs, indices: Array) -> dict[str, Sequence[Array]]:
    return {name: [samples[i] for i in indices] for name, samples in outputs.items()}


def best_of(metric: Metric) -> float:
    """Return what the original has under a metric that compares with it: `best`, or 1 or 0 by direction."""
    return metric.best if metric.best is not None else float(metric.higher_is_better)


def interval_of(metric: Metric, found: Measured, level: float) -> Interval:
    """Return the metric's interval, not beyond its `best`."""
    if isinstance(found.values, float):
        spread = max(abs(found.values), _spread(found))
        interval = statistics.aggregate_interval(found.values, found.replicates, found.n, level, spread)
    else:
        interval = statistics.single_interval(found.values, level)
    if metric.best is None:
        return interval
    if metric.higher_is_better:
        return Interval(interval.estimate, interval.low, min(interval.high, metric.best), level)
    return Interval(interval.estimate, max(interval.low, metric.best), interval.high, level)


def drop_of(metric: Metric, original: Measured, candidate: Measured, level: float, *, relative: bool) -> Interval:
    """Return how much worse the candidate is, positive for worse; `relative` to the original's absolute value.

    Raises MetricError where that is 0.
    """
    base = abs(best_of(metric) if metric.needs_reference else original.estimate)
    if relative and base == 0:
        raise MetricError(
            f"the original's {metric.name} is 0, so a relative drop has no meaning; use --drop-type absolute"
        )
    if metric.needs_reference:
        return _shortfall(metric, interval_of(metric, candidate, level), base if relative else 1.0)
    if isinstance(original.values, float) or isinstance(candidate.values, float):
        return _aggregate_drop(metric, original, candidate, level, relative=relative)
    worse, better = original.values, candidate.values
    if not metric.higher_is_better:
        worse, better = better, worse
    if relative:
        return statistics.relative_interval(worse, better, original.values, level)
    return statistics.paired_interval(worse, better, level)


def _shortfall(metric: Metric, value: Interval, base: float) -> Interval:
    """Return the distance from `best`, which is what the original has: known, not estimated."""
    best = best_of(metric)
    ends = [abs(best - end) / base for end in (value.low, value.high)]
    return Interval(abs(best - value.estimate) / base, min(ends), max(ends), value.level)


def _aggregate_drop(
    metric: Metric, original: Measured, candidate: Measured, level: float, *, relative: bool
) -> Interval:
    if not (isinstance(original.values, float) and isinstance(candidate.values, float)):
        raise MetricError(f"{metric.name} returned one number for one model and an array for the other")
    sign = 1.0 if metric.higher_is_better else -1.0
    estimate = sign * (original.values - candidate.values)
    span = max(abs(original.values), abs(candidate.values), _spread(original))
    with np.errstate(invalid="ignore", divide="ignore"):
        drops = sign * (original.replicates - candidate.replicates)
        if relative:
            base = abs(original.values)
            estimate, drops, span = estimate / base, drops / np.abs(original.replicates), span / base
    return statistics.aggregate_interval(estimate, drops, original.n, level, span)


def _spread(found: Measured) -> float:
    """Return twice the standard deviation of one sample's influence: what an unseen sample may do to an aggregate."""
    finite = found.replicates[np.isfinite(found.replicates)]
    return 2 * float(np.std(finite)) * math.sqrt(found.n) if len(finite) else 0.0
