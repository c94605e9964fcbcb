"""What is said of a goal and of a verdict: can it be met, why it passed or failed, what more samples would do."""

from __future__ import annotations

import math

from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics.estimate import best_of
from onnx_lowrank.metrics.metric import Metric
from onnx_lowrank.metrics.traits import allowed_drop, traits_of
from onnx_lowrank.types import Bound, Interval, Word


def impossible_goal(metric: Metric, gate: Gate) -> str | None:
    """Return one line that says why no changed model can meet the goal; None where one can."""
    if gate.relative and metric.needs_reference and best_of(metric) == 0:
        return (
            f"metric {metric.name} is 0 for the original itself, so a relative drop has no meaning:"
            " use --drop-type absolute"
        )
    if allowed_drop(metric, gate) > 0 or not metric.needs_reference or traits_of(metric).compares_decisions:
        return None
    return (
        f"metric {metric.name} compares with the original itself: a drop of 0 admits only the unchanged model;"
        " give --max-drop, 0.01 say"
    )


def reason(metric: Metric, drop: Interval, bound: Bound, gate: Gate, word: Word, samples: int) -> str:
    """Return one line: how the metric moved, what of that is certified, and how it compares with what is allowed."""
    name, relative, allowed = metric.name, gate.relative, allowed_drop(metric, gate)
    size = number(abs(drop.estimate), relative=relative)
    moved = (
        f"is worse by {size}" if drop.estimate > 0 else f"is better by {size}" if drop.estimate < 0 else "is the same"
    )
    level = f"{100 * bound.confidence:g} %"
    limit = f"the {number(allowed, relative=relative)} allowed"
    certified = certified_drop(bound, relative=relative)
    if gate.observed:
        within = "within" if word == "observed" else "more than"
        return f"{name} {moved}, {within} {limit}; smallest certified drop: {certified}"
    if word == "certified":
        below = number(bound.value, relative=relative)
        return f"{name} {moved}; at {level} confidence the drop is below {below}, within {limit}"
    if drop.estimate <= allowed:
        return f"{name} {moved}, but {samples:,} samples certify only a drop below {certified}, not {limit}"
    return f"{name} {moved}, more than {limit}"


def certified_drop(bound: Bound, *, relative: bool) -> str:
    """Return the smallest drop that is certified as text."""
    if not math.isfinite(bound.value):
        return "none"
    return f"{number(bound.value, relative=relative)} (at {100 * bound.confidence:g} %)"


def number(value: float, *, relative: bool) -> str:
    """Return a drop as text, three digits; a relative one in percent."""
    return f"{100 * value:.3g} %" if relative else f"{value:.3g}"


def more_samples(drop: Interval, bound: Bound, gate: Gate, allowed: float, n: int) -> str | None:
    """Return about how many samples would certify the drop that was measured; None where that is no question."""
    if gate.observed or bound.value <= allowed or drop.estimate >= allowed:
        return None
    if not math.isfinite(bound.value):
        return f"{n:,} {'sample bounds' if n == 1 else 'samples bound'} no drop: more are needed"
    needed = n * ((bound.value - drop.estimate) / (allowed - drop.estimate)) ** 2
    about = f"{float(f'{needed:.2g}'):,.0f}"
    tolerance = number(allowed, relative=gate.relative)
    return f"a drop as measured would be certified as below {tolerance} by about {about} samples"
