"""Predicted against measured rise: rank correlation with its interval, model by model, and the place of the plot."""

from __future__ import annotations

from benchmarks.ablation_table import Inventory
from benchmarks.lines import Line
from benchmarks.prediction import CELL, PART, SAMPLES, rank_correlation
from benchmarks.wording import NONE, table, with_interval

PLOT = "tools/plots/prediction.svg"
"""Beside RESULTS.md."""
ABOUT = (
    f"Every point is one weight at one rank, alone, measured on {SAMPLES} unseen inputs. *Inside* is the perturbation"
    " range, in which prediction and measurement agreed on calibration samples; beyond it plans take the measured loss"
    " instead. In brackets the 95 % interval of the bootstrap over points, which takes all as independent."
)


def prediction(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    data = inventory.get((PART, model, CELL))
    if data is None:
        return []
    heads = (f"rank correlation; loss in {data['unit']}", "Spearman", "points")
    rows = [_row(label, data, inside=inside) for label, inside in (("inside the range", True), ("all points", False))]
    return ["### Predicted and measured rise", "", *table(heads, rows)]


def plot(inventory: Inventory) -> list[str]:
    """Return the section that shows the plot, nothing where nothing was predicted."""
    if not any(part == PART for part, _, _ in inventory):
        return []
    return ["## Predicted against measured rise", "", ABOUT, "", f"![Predicted and measured rise]({PLOT})", ""]


def correlation_said(points: list[Line], *, inside: bool) -> str:
    """Return `.931 [.902, .960] of 88 points`."""
    correlation, count = rank_correlation(points, inside=inside, resamples=1000, seed=0)
    return f"{with_interval(correlation)} of {count} points"


def _row(label: str, data: Line, *, inside: bool) -> tuple[str, str, str]:
    correlation, count = rank_correlation(data["points"], inside=inside, resamples=1000, seed=0)
    return label, with_interval(correlation) if count >= 3 else NONE, str(count)
