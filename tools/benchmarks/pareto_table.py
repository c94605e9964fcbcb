"""The table of what the whole curve costs: a row a model."""

from __future__ import annotations

from benchmarks.ablation_table import Inventory
from benchmarks.lines import Line
from benchmarks.pareto import CELL, PART
from benchmarks.wording import NONE, table

ABOUT = (
    "`--pareto`, in the seconds that each stage takes once. *Collection*: everything up to the curves of the weights."
    " *Whole curve*: plans for every budget, and the measured ones on all validation samples; the original's own run"
    " stands apart. A further point costs what its plan does and, if it is to be measured, a session and a run over"
    " the validation samples. Nothing is collected again."
)


def pareto_table(inventory: Inventory, models: tuple[str, ...]) -> list[str]:
    """Return the section, nothing where no curve was timed."""
    rows = [_row(model, inventory[PART, model, CELL]) for model in models if (PART, model, CELL) in inventory]
    if not rows:
        return []
    heads = ("", "weights", "samples: calibration, validation", "collection, s", "original, s", "whole curve, s")
    heads += ("points", "of them measured", "a further measured point, s", "a further unmeasured point, ms")
    return ["## What the whole curve costs", "", ABOUT, "", *table(heads, rows)]


def _row(model: str, data: Line) -> tuple[str, ...]:
    seconds = (f"{data[stage]:.1f}" for stage in ("collection", "original", "curve"))
    measured = NONE if data["a_measured"] is None else f"{data['a_measured']:.2f}"
    samples = f"{data['calibration']}, {data['validation']}"
    counts = (str(data["points"]), str(data["measured"]))
    return (model, str(data["sites"]), samples, *seconds, *counts, measured, f"{1000 * data['an_unmeasured']:.1f}")
