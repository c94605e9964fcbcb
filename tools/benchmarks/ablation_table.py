"""The ablation of RESULTS.md: loss on unseen inputs, method by method, over the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from benchmarks.ablation import DEFAULT, LEVELS, METHODS, PART, PLAIN, SEEDS, cell_name
from benchmarks.lines import Line
from benchmarks.wording import NONE, changed, percent, table

Inventory = Mapping[tuple[str, str, str], Line]

ABOUT = (
    "Loss: divergence from the original's own outputs on test inputs (at most 128 a set; its unit is said below), mean"
    " over three seeds, each of which leaves out another tenth of the calibration samples and draws other targets; in"
    " brackets the means of the ends of the 95 % intervals over test samples; then the range of the seeds' means. Plain"
    f" methods see no data: one run. *{DEFAULT}* is the product's default; every `+` is that default with one switch."
)


def cells_of(inventory: Inventory, model: str, method: str, level: float) -> list[Line]:
    """Return what was measured of a method at a size, a line a seed."""
    lines = (inventory.get((PART, model, cell_name(method, level, seed))) for seed in SEEDS)
    return [line for line in lines if line is not None]


def mean_loss(inventory: Inventory, model: str, method: str, level: float) -> float | None:
    """Return the mean loss over the seeds, None where nothing was measured or reached."""
    losses = [line["loss"][0] for line in cells_of(inventory, model, method, level) if line["reachable"]]
    return fmean(losses) if losses else None


def ablation(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    unit = next(
        (
            line["unit"]
            for (part, name, _), line in inventory.items()
            if part == PART and name == model and "unit" in line
        ),
        "",
    )
    rows = [(method, *(_cell(inventory, model, method, level) for level in LEVELS)) for method in METHODS]
    if not any(cell != NONE for row in rows for cell in row[1:]):
        return []
    heads = (f"{unit}; kept of the factorable", *(percent(level, 0) for level in LEVELS))
    text = ["### Ablation: loss on unseen inputs", "", *table(heads, rows)]
    for index, test in enumerate(_tests(inventory, model)):
        methods = ("whitened, uniform", "whitened, global", DEFAULT) if index == 0 else (DEFAULT,)
        judged = [
            (f"{method}, seed {seed}", *(_judged(inventory, model, method, level, seed, test) for level in LEVELS))
            for method in methods
            for seed in SEEDS
        ]
        text += table((f"{test}: the task's metric", *heads[1:]), judged)
    refusals = {
        line["why"] for (part, name, _), line in inventory.items() if part == PART and name == model and "why" in line
    }
    return [*text, *(f"- none: {why}" for why in sorted(refusals)), ""]


def _cell(inventory: Inventory, model: str, method: str, level: float) -> str:
    lines = cells_of(inventory, model, method, level)
    if not lines:
        return NONE
    reached = [line["loss"] for line in lines if line["reachable"]]
    if not reached:
        return "none"
    mean, low, high = (fmean(loss[i] for loss in reached) for i in range(3))
    text = f"{mean:.3g} [{low:.3g}, {high:.3g}]"
    if len(reached) > 1:
        text += f" {min(loss[0] for loss in reached):.3g}–{max(loss[0] for loss in reached):.3g}"
    whole = len(reached) == (1 if method in PLAIN else len(SEEDS))
    return text if whole else f"{text} ({len(reached)} of {len(SEEDS)} seeds)"


def _tests(inventory: Inventory, model: str) -> list[str]:
    lines = [
        line for (part, name, _), line in inventory.items() if part == PART and name == model and line.get("tests")
    ]
    return list(lines[0]["tests"]) if lines else []


def _judged(inventory: Inventory, model: str, method: str, level: float, seed: int, test: str) -> str:
    line = inventory.get((PART, model, cell_name(method, level, seed)))
    return changed(line["tests"][test]) if line is not None and line["reachable"] and test in line["tests"] else NONE


__all__ = ["ABOUT", "ablation", "cells_of", "mean_loss"]
