"""Numbers as short Markdown cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NONE = "—"
KINDS = {"joint": "joint", "inputs": "whitened", "weights": "plain"}
"""Sensitivity, in a word."""
Triple = Sequence[float]
"""Estimate, low end, high end."""


def number(value: float, digits: int = 3) -> str:
    """Return a number as `.656`, `−.015` or `1.234`."""
    if not math.isfinite(value):
        return "?" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def percent(share: float, digits: int = 1) -> str:
    """Return a share as `80.6 %`."""
    return f"{100 * share:.{digits}f} %"


def megabytes(size: float) -> str:
    """Return bytes as `90.4` (millions of bytes)."""
    return f"{size / 1e6:,.1f}"


def with_interval(triple: Triple, digits: int = 3) -> str:
    """Return `.656 [.562, .727]`."""
    return f"{number(triple[0], digits)} {interval(triple, digits)}"


def interval(triple: Triple, digits: int = 3) -> str:
    """Return `[.562, .727]`."""
    return f"[{number(triple[1], digits)}, {number(triple[2], digits)}]"


def change_of(said: Mapping[str, Any]) -> Triple:
    """Return the metric's change, candidate − original, from the drop (positive is worse)."""
    estimate, low, high = said["drop"]
    return (-estimate, -high, -low) if said["higher_is_better"] else (estimate, low, high)


def changed(said: Mapping[str, Any]) -> str:
    """Return `.641 (−.015 [−.031, .001])`."""
    return f"{number(said['candidate'][0])} ({with_interval(change_of(said))})"


def both(said: Mapping[str, Any]) -> str:
    """Return `.656 → .641 (−.015 [−.031, .001])`."""
    return f"{number(said['original'][0])} → {changed(said)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, figures: bool = True) -> list[str]:
    """Return the lines of a Markdown table; with `figures`, all columns but the first are aligned to the right."""
    marks = ["---", *["---:" if figures else "---"] * (len(head) - 1)]
    return [_row(head), _row(marks), *(_row(row) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
