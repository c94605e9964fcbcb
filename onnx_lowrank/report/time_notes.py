"""What a plan costs or gains in time, in words."""

from __future__ import annotations

from onnx_lowrank.results.result import Result
from onnx_lowrank.types import Interval


def time_notes(result: Result) -> list[str]:
    """Say what a plan costs or gains in time, and how well that was predicted where it was the goal."""
    if result.latency is None or not result.changed:
        return []
    return ratio_notes(result.latency.ratio, result.predicted_ratio)


def ratio_notes(ratio: Interval, predicted: float | None) -> list[str]:
    """Say the same of a ratio of times, and of the one that was predicted."""
    notes = [f"time: {faster(ratio)}"]
    if predicted is not None:
        off = 100 * (predicted / ratio.estimate - 1)
        notes.append(
            f"time predicted from measured weights: {predicted:.3f} of the original's, measured {ratio.estimate:.3f}"
            f" ({off:+.0f} %)"
        )
    return notes


def faster(ratio: Interval) -> str:
    """Return a ratio of times in words: '1.25 times as fast [1.22, 1.28]', slower, or that neither is shown."""
    speed = f"{1 / ratio.estimate:.2f} times as fast [{1 / ratio.high:.2f}, {1 / max(ratio.low, 1e-9):.2f}]"
    if ratio.high < 1:
        return speed
    if ratio.low > 1:
        cost = f"{100 * (ratio.estimate - 1):.0f} % [{100 * (ratio.low - 1):.0f}, {100 * (ratio.high - 1):.0f}]"
        return f"{cost} slower than the original: the smaller size costs time"
    return "no faster and no slower than the original, as far as can be told"
