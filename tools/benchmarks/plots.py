"""Plots made of the raw lines alone: the same lines and matplotlib give the same bytes. And RESULTS.md's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.ablation_table import Inventory
from benchmarks.lines import Line
from benchmarks.prediction import CELL, PART, rank_correlation
from benchmarks.wording import number

MARKS = (("inside", True, "o", "#1f5fa8"), ("beyond the range", False, "x", "#c2571a"))
"""Label, whether inside the perturbation range, marker and colour."""
SALT = "onnx-lowrank"
WIDTH = 3.4
"""Inches a panel."""
LEGEND = 0.7
"""Inches that a legend below all panels takes."""
ROUNDING = 1e-12


class PlotError(Exception):
    """A plot that cannot be drawn; the message says what to do."""


def draw(inventory: Inventory, models: Sequence[str], path: Path) -> bool:
    """Write the plot of all predictions and return True; False where there are none. Raises PlotError."""
    there = [(model, inventory[PART, model, CELL]) for model in models if (PART, model, CELL) in inventory]
    if not there:
        return False
    panels(path, [partial(_panel, model=model, data=data) for model, data in there])
    return True


def panels(path: Path, draws: Sequence[Callable[[Any], None]], height: float = WIDTH, legend: int = 0) -> None:
    """Write a plot of panels, two a row, each drawn by one of `draws` on its axes. Raises PlotError.

    height: inches a panel; legend: columns of one for all panels, below them; 0: none.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(f"{path.name} is not drawn: {error}; pip install '.[bench]'") from error
    with rc_context({"svg.hashsalt": SALT, "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 8}):
        columns = 2 if legend else min(len(draws), 2)  # a legend needs the width
        rows = -(-len(draws) // columns)
        figure = Figure(figsize=(WIDTH * columns, height * rows + (LEGEND if legend else 0.0)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for draw_one, each in zip(draws, axes, strict=False):
            draw_one(each)
        for each in axes[len(draws) :]:
            each.set_axis_off()
        if legend:
            entries = {
                text: mark for each in axes for mark, text in zip(*each.get_legend_handles_labels(), strict=True)
            }
            figure.legend(entries.values(), entries, loc="outside lower center", ncols=legend, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axes: Any, model: str, data: Line) -> None:
    points = shown(data["points"])
    for label, inside, marker, colour in MARKS:
        chosen = [p for p in points if p["inside"] is inside]
        xs, ys = ([p[what] for p in chosen] for what in ("predicted", "measured"))
        axes.plot(xs, ys, marker, color=colour, markersize=3, markerfacecolor="none", markeredgewidth=0.7, label=label)
    if points:
        values = [p[what] for p in points for what in ("predicted", "measured")]
        ends = [min(values) / 2, max(values) * 2]
        axes.plot(ends, ends, color="0.5", linewidth=0.8, zorder=0)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.minorticks_off()  # each tick is a line of the file
    axes.set(xlabel=f"predicted rise, {data['unit']}", ylabel="measured rise", title=title(model, data))
    axes.legend(loc="upper left", frameon=False)


def shown(points: Sequence[Line]) -> list[Line]:
    """Return the points of which both values are more than the rounding of the largest: one of 1e-56 hides the rest."""
    values = ("predicted", "measured")
    floor = ROUNDING * max((p[what] for p in points for what in values), default=0.0)
    return [p for p in points if all(p[what] > floor for what in values)]


def title(model: str, data: Line) -> str:
    """Return what stands above a panel, with what a logarithm cannot show."""
    correlation, count = rank_correlation(data["points"], inside=True, resamples=0, seed=0)
    hidden = len(data["points"]) - len(shown(data["points"]))
    left_out = f"; {hidden} at 0" if hidden else ""
    return f"{model}: Spearman {number(correlation[0])} inside ({count} of {len(data['points'])}{left_out})"
