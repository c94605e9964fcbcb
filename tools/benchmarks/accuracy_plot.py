"""Accuracy against size, a panel a classifier, a line a method: the plot that the README shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lines import Line
from benchmarks.methods import KEEPS, METHODS, OURS, PART, cell_name
from benchmarks.methods_table import lossless_cell
from benchmarks.plots import panels
from benchmarks.target import Inventory
from benchmarks.wording import number

PLOT = "tools/plots/accuracy.svg"
"""Beside RESULTS.md."""
LOSSLESS = "ours, lossless (validation labels too)"
STYLES: Mapping[str, tuple[str, str]] = {
    "plain SVD": ("#8c8c8c", "o"),
    "energy threshold": ("#c9a227", "s"),
    "ALDS": ("#7b3f9e", "D"),
    "SVD-LLM": ("#2a9d8f", "^"),
    "ASVD": ("#c04c8a", "v"),
    "paper": ("#c2571a", "X"),
    OURS: ("#1f5fa8", "o"),
    LOSSLESS: ("#4ea3e0", "s"),
}
"""Colour and marker."""
TICKS = (0.1, 0.2, 0.3, 0.5, 1.0)
ENDS = (0.07, 1.1)
HEIGHT = 2.25
LEAST_DEPTH = 0.02
"""A panel goes down at least so far below the original."""
BELOW = "lower than the panel shows"
CARET_DOWN = 7
"""matplotlib's marker: a triangle whose tip is its point."""
DEEPER = 2
"""Others are drawn to scale so many times as deep as ours goes."""
MARGIN = 0.12
"""Share of the depth left free at both ends."""
APART = 0.022
"""Decades between arrows of different methods at the same size."""


@dataclass(frozen=True, slots=True)
class Point:
    """A plan: the share of the file's parameters it keeps, its top-1, and the ends of the interval."""

    kept: float
    top1: float
    low: float
    high: float


def draw_accuracy(inventory: Inventory, models: Sequence[str], path: Path) -> bool:
    """Write the plot and return True; False where no method was measured on any model. Raises PlotError."""
    there = [(model, lines_of(inventory, model)) for model in models]
    draws = [
        partial(_panel, model=model, original=_original(inventory, model), lines=lines)
        for model, lines in there
        if lines
    ]
    if not draws:
        return False
    panels(path, draws, height=HEIGHT, legend=3)
    return True


def accuracy(inventory: Inventory) -> list[str]:
    """Return the section that shows the plot, where there is something to draw."""
    if not any(key[0] == PART for key in inventory):
        return []
    about = "Top-1 on test labels against the share of parameters kept, paired 95 % intervals for ours"
    return [
        "## Accuracy against size",
        "",
        f"{about}; triangles stand for what is {BELOW}.",
        "",
        f"![{about}]({PLOT})",
        "",
    ]


def lines_of(inventory: Inventory, model: str) -> dict[str, list[Point]]:
    """Return the points of each method that reached a size, smallest first."""
    cells: dict[str, list[Line | None]]
    cells = {m: [inventory.get((PART, model, cell_name(m, keep))) for keep in KEEPS] for m in METHODS}
    cells[LOSSLESS] = [lossless_cell(inventory, model, keep) for keep in KEEPS]
    made = {m: [_point(c) for c in each[::-1] if c and c["reachable"]] for m, each in cells.items()}
    return {method: points for method, points in made.items() if points} if any(made[m] for m in METHODS) else {}


def _point(cell: Line) -> Point:
    _, after, (change, low, high) = cell["top1"]
    return Point(cell["kept"], after, after + low - change, after + high - change)


def _original(inventory: Inventory, model: str) -> float:
    """Return the original's top-1, which every cell that reached its size repeats."""
    tops = (
        data["top1"] for (part, name, _), data in inventory.items() if (part, name) == (PART, model) and "top1" in data
    )
    return float(next(tops)[0])


def floor_of(lines: Mapping[str, Sequence[Point]], original: float) -> float:
    """Return the lowest top-1 that is drawn to scale: all of ours is; what is far below would squash the rest."""
    ours = [point.low for method in (OURS, LOSSLESS) for point in lines.get(method, ())]
    depth = max(original - min(ours, default=original), LEAST_DEPTH)
    lowest = min(point.top1 for points in lines.values() for point in points)
    return max(original - DEEPER * depth, min(lowest, original - depth))


def _panel(axes: Any, model: str, original: float, lines: Mapping[str, Sequence[Point]]) -> None:
    floor = floor_of(lines, original)
    highest = max([original, *(point.top1 for points in lines.values() for point in points)])
    highest = max([highest, *(point.high for method in (OURS, LOSSLESS) for point in lines.get(method, ()))])
    margin = MARGIN * (highest - floor)
    bottom = floor - margin
    axes.axhline(original, color="0.25", linewidth=0.8, linestyle=(0, (4, 2)), label="original", zorder=1)
    for index, (method, (colour, marker)) in enumerate(STYLES.items()):
        points = lines.get(method, ())
        if points:
            _line(axes, method, points, colour, marker)
        shift = 10 ** (APART * (index - (len(STYLES) - 3) / 2))  # ours, the last two, are never below
        below = [point.kept * shift for point in points if point.top1 < bottom]
        if below:
            axes.plot(below, [bottom] * len(below), marker=CARET_DOWN, markersize=5, color=colour, linestyle="")
    axes.plot([], [], marker=CARET_DOWN, markersize=5, color="0.35", linestyle="", label=BELOW)
    axes.set(xscale="log", xlim=ENDS, ylim=(bottom, highest + margin))
    axes.set_xticks(TICKS, [number(tick, 0 if tick == 1 else 1) for tick in TICKS])
    axes.minorticks_off()
    axes.set(title=model, xlabel="share of the file's parameters kept", ylabel="top-1 on test labels")


def _line(axes: Any, method: str, points: Sequence[Point], colour: str, marker: str) -> None:
    xs, ys = [p.kept for p in points], [p.top1 for p in points]
    ours = method in (OURS, LOSSLESS)
    spread = [[p.top1 - p.low for p in points], [p.high - p.top1 for p in points]] if ours else None
    axes.errorbar(
        xs, ys, spread, label=method, color=colour, marker=marker, markersize=4 if ours else 3.5,
        linewidth=1.8 if ours else 0.9, linestyle="--" if method == LOSSLESS else "-", elinewidth=0.8, capsize=2,
        zorder=4 if ours else 2,
    )  # fmt: skip
