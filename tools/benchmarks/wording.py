"""Numbers as short Markdown cells, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NONE = "—"
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
    return f"{100 * share:.{digits}f} %"


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f}"


def threads_text(threads: int) -> str:
    return {0: "as many threads as cores", 1: "one thread"}.get(threads, f"{threads} threads")


def with_interval(triple: Triple, digits: int = 3) -> str:
    """Return `.656 [.562, .727]`."""
    return f"{number(triple[0], digits)} {interval(triple, digits)}"


def significant(triple: Triple, digits: int = 3) -> str:
    """Return `1.2e-06 [1e-06, 1.4e-06]`: digits that count, for losses of any size."""
    middle, low, high = (f"{value:.{digits}g}".replace("-", "−") for value in triple)
    return f"{middle} [{low}, {high}]"


def interval(triple: Triple, digits: int = 3) -> str:
    return f"[{number(triple[1], digits)}, {number(triple[2], digits)}]"


def paired(values: Sequence[Any]) -> str:
    """Return `.9094 (−.0011 [−.0025, .0002])` of (original's value, candidate's, triple of the change)."""
    return f"{number(values[1], 4)} ({with_interval(values[2], 4)})"


def changed(verdict: Mapping[str, Any]) -> str:
    """Return `.641 (−.015 [−.031, .001])`: the change is candidate − original; a positive drop is worse."""
    estimate, low, high = verdict["drop"]
    change = (-estimate, -high, -low) if verdict["higher_is_better"] else (estimate, low, high)
    return f"{number(verdict['candidate'][0])} ({with_interval(change)})"


def both(verdict: Mapping[str, Any]) -> str:
    """Return `.656 → .641 (−.015 [−.031, .001])`."""
    return f"{number(verdict['original'][0])} → {changed(verdict)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, figures: bool = True) -> list[str]:
    """Return the lines of a Markdown table; with `figures`, all columns but the first are aligned to the right."""
    marks = ["---", *["---:" if figures else "---"] * (len(head) - 1)]
    return [_row(head), _row(marks), *(_row(row) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
