"""How many samples a claim takes: what could be certified at best by those there are, and how many would do."""

from __future__ import annotations

import numpy as np

from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import Measured, Metric, allowed_drop, best_of, bound_of, bounds_of
from onnx_lowrank.types.words import counted

FEWEST = 30
"""Samples below which an asymptotic bound is not believed."""


def best_bound(metric: Metric, gate: Gate, original: Measured, units: int, *, grouped: bool) -> float:
    """Return the smallest drop that `units` independent samples could certify: where nothing changes at all.

    Inf below FEWEST samples where the metric promises no bounds of its values: such a bound is asymptotic.
    """
    whole = isinstance(original.values, float)
    values = np.zeros(0) if whole else np.asarray(original.values)
    right_or_wrong = not whole and not grouped and bool(np.isin(values, (0.0, 1.0)).all())
    if whole or (bounds_of(metric) is None and not right_or_wrong):
        return float("inf") if units < FEWEST else 0.0
    values = np.full(units, best_of(metric)) if original.known else np.resize(values, units)
    same = Measured(values, units, np.zeros(0), np.arange(units) if grouped else None, original.known)
    return bound_of(metric, same, same, gate, allowed_drop(metric, gate), seed=0).value


def samples_that_would_do(metric: Metric, gate: Gate, original: Measured, *, grouped: bool) -> int | None:
    """Return the fewest samples that could certify the drop allowed if nothing changed; None where 100,000 do not."""
    allowed = allowed_drop(metric, gate)
    low, high = 1, 16
    while best_bound(metric, gate, original, high, grouped=grouped) > allowed:
        low, high = high, 2 * high
        if high > 2**17:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if best_bound(metric, gate, original, middle, grouped=grouped) <= allowed:
            high = middle
        else:
            low = middle
    return high


def too_few(metric: Metric, gate: Gate, original: Measured, units: int, *, grouped: bool = False) -> str:
    """Return why nothing can be certified by so many samples, and how to go on; empty where something can."""
    allowed = allowed_drop(metric, gate)
    if gate.observed:
        return ""
    best = best_bound(metric, gate, original, units, grouped=grouped)
    if best <= allowed:
        return ""
    needed = samples_that_would_do(metric, gate, original, grouped=grouped)
    could = f"a drop of {best:.3g} could" if np.isfinite(best) and best < 1 else "no drop could"
    would = f"{needed:,} would do if nothing changed at all, and more if some does" if needed else "no number would do"
    return (
        f"{counted(units, 'validation sample')} cannot certify a drop below {allowed:g} in {metric.name} at"
        f" {100 * gate.confidence:g} % confidence: {could} be, at best; {would}. Give more with --validation (without"
        " labels: --metric agreement), allow more with --max-drop, or go by the estimate alone with --observed"
    )
