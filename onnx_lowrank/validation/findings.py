"""Checks beside the metric: broken candidates, changes that no metric shows, and the notes on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.metrics import Difference, Measured, Metric, traits_of
from onnx_lowrank.types import Array, OutputVerdict

SLACK = 1e-12
"""A bound over the allowed drop by this share of the numbers compared is rounding: .905 − .9 is not .005 exactly."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What one model did: the metric, other outputs' own metrics, how far outputs moved, (n,) agreement of classes."""

    measured: Measured
    moved: tuple[Difference, ...]
    agreement: Array | None
    others: Mapping[str, Measured] = field(default_factory=dict)


def unexplained(metric: Metric, base: Comparison, run: Comparison) -> float:
    """Return the share of samples that a metric calls right before and after although the decision changed.

    Only where a metric calls one decision a sample right or wrong (top1, exact match): not with top5, which accepts
    five, nor where a sample holds many decisions (the frames of a text, say).
    """
    values = (base.measured.values, run.measured.values)
    if run.agreement is None or metric.needs_reference or traits_of(metric).accepts_several:
        return 0.0
    if not np.isin(run.agreement, (0.0, 1.0)).all():
        return 0.0
    if any(isinstance(v, float) or not np.isin(v, (0.0, 1.0)).all() for v in values) or not metric.higher_is_better:
        return 0.0
    both = (np.asarray(values[0]) == 1) & (np.asarray(values[1]) == 1)
    return float(np.mean(both & (run.agreement < 1)))


def elsewhere(others: Sequence[OutputVerdict]) -> str:
    """Return why a candidate fails by an output that its metric does not read; empty where it does not."""
    for output in others:
        if not output.passed:
            return (
                f"output {output.name!r}, which the metric does not look at, moved too far: {output.metric} drop"
                f" {output.drop.estimate:.3g}, at most {output.bound.value:.3g} at {100 * output.bound.confidence:g} %,"
                f" and {output.allowed:g} is allowed; --output NAME says which outputs count"
            )
    return ""


def within(bound: float, allowed: float, scale: float) -> bool:
    """Return whether a bound is at most what is allowed, but for rounding: SLACK of the numbers compared."""
    return math.isfinite(bound) and bound <= allowed + SLACK * max(allowed, scale)


def broken(name: str, base: Comparison, run: Comparison) -> str | None:
    """Return why a candidate fails whatever the value of its metric."""
    n = run.measured.n
    for output in base.moved:
        if output.void == n:
            return f"the original's own output {output.name!r} is never finite: nothing can be shown to hold"
    for output in run.moved:
        if output.broken:
            return (
                f"output {output.name!r} has NaN or Inf in {output.broken} of {n} samples where the original has none"
            )
    if not math.isfinite(base.measured.estimate):
        return f"the original's own {name} is not a finite number; {_unfit(base) or 'check the labels'}"
    if not math.isfinite(run.measured.estimate):
        reshaped = [f"output {output.name!r} has another shape in {output.reshaped} of {n}" for output in run.moved]
        causes = [text for text, output in zip(reshaped, run.moved, strict=True) if output.reshaped]
        return f"{name} of the candidate is not a finite number; {_unfit(base) or ', '.join(causes) or _ZEROS}"
    return None


_ZEROS = "the original's output may be all zeros in a sample: take another metric"


def _unfit(base: Comparison) -> str:
    texts = [
        f"the original itself gives NaN or Inf in {output.unfit} of {base.measured.n} samples (output {output.name!r})"
        for output in base.moved
        if output.unfit
    ]
    return ", ".join(texts)


def notes(name: str, base: Comparison, run: Comparison) -> Iterator[str]:
    """Yield what a reader of the verdict has to know besides."""
    n = run.measured.n
    if unfit := _unfit(base):
        yield f"{unfit}; these elements are left out of the differences"
    for output in run.moved:
        if output.reshaped:
            where = f"output {output.name!r} has another shape in {output.reshaped} of {n} samples"
            yield f"{where}: no distance can be given"
    if failed := max(base.measured.failed_resamples, run.measured.failed_resamples):
        yield f"{failed} of {len(run.measured.replicates)} resamples gave no {name} and were left out of its interval"
    if run.measured.replicates.size and not np.ptp(base.measured.replicates - run.measured.replicates):
        yield f"{name} changed on no resample, so its interval is a guess: return values a sample for an exact one"
