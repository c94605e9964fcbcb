"""Figures made of the raw lines alone: the same lines and matplotlib give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SALT = "onnx-lowrank"
WIDTH, LEGEND = 3.4, 0.7
"""Inches a panel, and inches that a legend below all panels takes."""


class PlotError(Exception):
    """A figure that cannot be drawn; the message says what to do."""


def panels(path: Path, draws: Sequence[Callable[[Any], None]], height: float = WIDTH, legend: int = 0) -> bool:
    """Write a figure of panels, two a row, each drawn by one of `draws` on its axes; False for none. Raises PlotError.

    height: inches a panel; legend: columns of one for all panels, below them; 0: none.
    """
    if not draws:
        return False
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
        for draw, each in zip(draws, axes, strict=False):
            draw(each)
        for each in axes[len(draws) :]:
            each.set_axis_off()
        if legend:
            handles = [each.get_legend_handles_labels() for each in axes]
            entries = {text: mark for marks, texts in handles for mark, text in zip(marks, texts, strict=True)}
            figure.legend(entries.values(), entries, loc="outside lower center", ncols=legend, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return True
