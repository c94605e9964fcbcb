"""A metric of one model, or the drop from one model to another, with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank import statistics
from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics.metric import Labels, Metric, Pooled, taken
from onnx_lowrank.types import Array, Interval, Outputs


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a metric said of one model on n samples.

    values: (n,) one a sample, or one float, the aggregate. replicates: (m,) the aggregate on m bootstrap resamples,
    nan where it has no value there; the same samples for every model; empty for values a sample. groups: (n,) numbers
    from 0 of the sources that samples share, None where each has its own. known: not measured, but what the original
    has under a metric that compares with it.
    """

    values: Array | float
    n: int
    replicates: Array
    groups: Array | None = None
    known: bool = False

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
        return Measured(values, self.n, np.full(len(self.replicates), math.nan), self.groups)


def measured(
    metric: Metric,
    outputs: Outputs,
    labels: Labels | None,
    reference: Outputs | None,
    seed: int,
    groups: Array | None = None,
) -> Measured:
    """Return the metric of n samples held in memory, with its resamples where it is an aggregate.

    An aggregate is called statistics.RESAMPLES (300) times more, on resampled groups where there are any. Raises
    MetricError.
    """
    n = len(next(iter(outputs.values())))
    values = metric.values(outputs, labels, reference)
    if not isinstance(values, float):
        return Measured(values, n, np.zeros(0), groups)
    replicates = []
    for indices in statistics.resamples(n, statistics.RESAMPLES, seed, groups):
        drawn = None if reference is None else _drawn(reference, indices)
        try:
            value = metric.values(_drawn(outputs, indices), taken(labels, indices), drawn)
        except MetricError:  # a resample may lack what the metric needs: one class only, say
            value = math.nan
        replicates.append(value if isinstance(value, float) else math.nan)
    return Measured(values, n, np.array(replicates), groups)


def measured_by_parts(metric: Pooled, parts: Array, seed: int, groups: Array | None = None) -> Measured:
    """Return the same of an aggregate by its (n, k) parts: the outputs themselves need not be held."""
    drawn = statistics.resamples(len(parts), statistics.RESAMPLES, seed, groups)
    replicates = np.array([metric.pooled(parts[indices]) for indices in drawn])
    return Measured(metric.pooled(parts), len(parts), replicates, groups)


def _drawn(outputs: Outputs, indices: Array) -> dict[str, Sequence[Array]]:
    return {name: [samples[i] for i in indices] for name, samples in outputs.items()}


def best_of(metric: Metric) -> float:
    """Return what the original has under a metric that compares with it: `best`, or 1 or 0 by direction."""
    return metric.best if metric.best is not None else float(metric.higher_is_better)


def interval_of(metric: Metric, found: Measured, level: float) -> Interval:
    """Return the metric's two-sided interval, not beyond its `best`."""
    if isinstance(found.values, float):
        spread = max(abs(found.values), _spread(found))
        interval = statistics.aggregate_interval(found.values, found.replicates, units_of(found), level, spread)
    elif found.groups is not None:
        interval = statistics.mean_interval(by_group(found.values, found.groups), level)
    else:
        interval = statistics.single_interval(found.values, level)
    if metric.best is None:
        return interval
    if metric.higher_is_better:
        return Interval(interval.estimate, interval.low, min(interval.high, metric.best), level)
    return Interval(interval.estimate, max(interval.low, metric.best), interval.high, level)


def drop_of(metric: Metric, original: Measured, candidate: Measured, level: float, *, relative: bool) -> Interval:
    """Return how much worse the candidate is, positive for worse; `relative` to the original's absolute value.

    The two-sided interval, to be shown. Raises MetricError where the original's value is 0 and the drop relative.
    """
    base = base_of(metric, original, relative=relative)
    if original.known:
        return _shortfall(metric, interval_of(metric, candidate, level), base)
    if isinstance(original.values, float) or isinstance(candidate.values, float):
        estimate, drops, span = aggregate_drops(metric, original, candidate, relative=relative)
        return statistics.aggregate_interval(estimate, drops, units_of(original), level, span)
    worse, better = worse_and_better(metric, original, candidate)
    if original.groups is not None:
        return _grouped_drop(worse, better, original, level, base)
    if relative:
        return statistics.relative_interval(worse, better, original.values, level)
    return statistics.paired_interval(worse, better, level)


def base_of(metric: Metric, original: Measured, *, relative: bool) -> float:
    """Return what a drop is divided by. Raises MetricError where that is 0."""
    if not relative:
        return 1.0
    base = abs(best_of(metric) if original.known else original.estimate)
    if base == 0:
        raise MetricError(
            f"the original's {metric.name} is 0, so a relative drop has no meaning; use --drop-type absolute"
        )
    return base


def worse_and_better(metric: Metric, original: Measured, candidate: Measured) -> tuple[Array, Array]:
    """Return the values whose mean difference, first − second, is the drop: (n,) each."""
    first, second = np.asarray(original.values), np.asarray(candidate.values)
    return (first, second) if metric.higher_is_better else (second, first)


def units_of(found: Measured) -> int:
    """Return how many independent samples there are."""
    return found.n if found.groups is None else int(found.groups.max()) + 1


def by_group(values: Array, groups: Array) -> Array:
    """Return (G,) values whose mean is that of the samples and whose spread is that of the groups (linearised)."""
    means, sizes = statistics.grouped(values, groups)
    mean = float(np.mean(values))
    return mean + (means - mean) * sizes / float(sizes.mean())


def _grouped_drop(worse: Array, better: Array, original: Measured, level: float, base: float) -> Interval:
    if original.groups is None:
        raise ValueError("there are no groups")
    interval = statistics.mean_interval(
        by_group(worse - better, original.groups), level, statistics.span_of(worse, better)
    )
    return Interval(interval.estimate / base, interval.low / base, interval.high / base, level)


def _shortfall(metric: Metric, value: Interval, base: float) -> Interval:
    """Return the distance from `best`, which is what the original has: known, not estimated."""
    best = best_of(metric)
    ends = [abs(best - end) / base for end in (value.low, value.high)]
    return Interval(abs(best - value.estimate) / base, min(ends), max(ends), value.level)


def aggregate_drops(
    metric: Metric, original: Measured, candidate: Measured, *, relative: bool
) -> tuple[float, Array, float]:
    """Return the drop of an aggregate, (m,) that of every resample, and what a sample nobody saw may do to it.

    Raises MetricError where only one of the two is an aggregate.
    """
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
    return estimate, drops, span


def _spread(found: Measured) -> float:
    """Return twice the standard deviation of one sample's influence: what an unseen sample may do to an aggregate."""
    finite = found.replicates[np.isfinite(found.replicates)]
    return 2 * float(np.std(finite)) * math.sqrt(units_of(found)) if len(finite) else 0.0
