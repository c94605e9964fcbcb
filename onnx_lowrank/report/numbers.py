"""Numbers as text: short, aligned, and never more digits than they deserve."""

from __future__ import annotations

import math

from onnx_lowrank.types import DENSE, Interval, Option
from onnx_lowrank.types.words import counted as counted


def count(value: float) -> str:
    """Return 15,087,360 as '15.1 M'; whole numbers below 100,000 in full."""
    if abs(value) < 100_000:
        return f"{value:,.0f}"
    for unit, size in (("M", 1e6), ("G", 1e9), ("T", 1e12)):
        if abs(value) < 1000 * size or unit == "T":
            return f"{value / size:.3g} {unit}" if abs(value) < 100 * size else f"{value / size:.0f} {unit}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Return bytes as '2.61 MB' (decimal)."""
    for unit, scale in (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if abs(value) < 1000 * scale or unit == "GB":
            return f"{value:,.0f} B" if unit == "B" else f"{value / scale:.3g} {unit}"
    return f"{value:,.0f} B"


def percent(part: float, whole: float) -> str:
    """Return '41.1 %' of a whole; a dash where there is none."""
    return f"{100 * part / whole:.1f} %" if whole else "–"


def metric(value: float) -> str:
    """Return a metric's value with four digits."""
    return "not finite" if not math.isfinite(value) else f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"


def interval(value: Interval, digits: int = 4) -> str:
    """Return '−0.0005 [−0.0045, 0.0034]'."""
    ends = ", ".join("–" if not math.isfinite(v) else f"{v:.{digits}f}" for v in (value.low, value.high))
    return f"{value.estimate:.{digits}f} [{ends}]".replace("-", "−")


def small(value: float) -> str:
    """Return a small number in two digits: '1.2e-05'."""
    return "0" if value == 0 else f"{value:.1e}"


def shape(dims: tuple[int, ...]) -> str:
    """Return '64×32×3×3'."""
    return "×".join(map(str, dims)) or "scalar"


def rank(option: Option) -> str:
    """Return the ranks of an option, 'dense' where it changes nothing."""
    return "dense" if option.scheme == DENSE else "×".join(map(str, option.ranks))


def shorten(text: str, width: int) -> str:
    """Return text cut in the middle, where long tensor names differ least."""
    if len(text) <= width:
        return text
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
