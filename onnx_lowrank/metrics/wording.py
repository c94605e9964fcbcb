"""What is said of a goal and of a verdict: can it be met, why it passed or failed, what more samples would do."""

from __future__ import annotations

import math

from onnx_lowrank.metrics.estimate import best_of
from onnx_lowrank.metrics.paired import Agreement
from onnx_lowrank.metrics.protocol import Metric
from onnx_lowrank.options import Gate
from onnx_lowrank.statistics import samples_needed
from onnx_lowrank.types import Interval


def impossible_goal(metric: Metric, gate: Gate) -> str | None:
    """Return one line that says why no changed model can meet the goal; None where one can."""
    if gate.drop_type == "relative" and metric.needs_reference and best_of(metric) == 0:
        return (
            f"metric {metric.name} is 0 for the original itself, so a relative drop has no meaning:"
            " use --drop-type absolute"
        )
    if gate.max_drop > 0 or not metric.needs_reference:
        return None
    if not isinstance(metric, Agreement):
        return (
            f"metric {metric.name} compares with the original itself: a drop of 0 admits only the unchanged model;"
            " give --max-drop, 0.01 say"
        )
    if gate.confidence is not None:
        return (
            f"no number of samples proves a drop of 0 in {metric.name} with confidence:"
            " give --max-drop, 0.01 say, or leave --confidence out"
        )
    return None


def reason(name: str, drop: Interval, gate: Gate, *, passed: bool) -> str:
    """Return one line: how metric `name` moved, and how that compares with what is allowed."""
    relative = gate.drop_type == "relative"
    size = number(abs(drop.estimate), relative=relative)
    moved = (
        f"is worse by {size}" if drop.estimate > 0 else f"is better by {size}" if drop.estimate < 0 else "is the same"
    )
    allowed = f"{number(gate.max_drop, relative=relative)} allowed"
    if gate.confidence is None:
        return f"{name} {moved}: {'within' if passed else 'more than'} the {allowed}"
    end = f"the {100 * drop.level:g} % interval ends at {number(drop.high, relative=relative)}"
    return f"{name} {moved}, {end}: {'within' if passed else 'over'} the {allowed}"


def number(value: float, *, relative: bool) -> str:
    """Return a drop as text, three digits; a relative one in percent."""
    return f"{100 * value:.3g} %" if relative else f"{value:.3g}"


def width_note(drop: Interval, gate: Gate, n: int) -> str | None:
    """Return how many samples would settle it, where the interval is wide and leaves the answer open; else None."""
    half, relative = drop.width / 2, gate.drop_type == "relative"
    if not math.isfinite(half):
        return f"{n:,} {'sample gives' if n == 1 else 'samples give'} no interval of the drop: more are needed"
    if half <= gate.max_drop or not drop.low <= gate.max_drop < drop.high:
        return None
    wide, tolerance = number(half, relative=relative), number(gate.max_drop, relative=relative)
    needed = samples_needed(drop, n, gate.max_drop)
    if needed is None:
        return (
            f"the interval (±{wide}, {n:,} samples) cannot prove a drop of exactly 0, however many samples;"
            f" {4 * n:,} would halve it"
        )
    about = f"{float(f'{needed:.2g}'):,.0f}"
    return f"the interval (±{wide}) is wider than the tolerance ({tolerance}): about {about} samples would settle it"
