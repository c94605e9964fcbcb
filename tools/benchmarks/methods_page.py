"""The page of part "methods": a row a method, a column a size; and accuracy against size as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.lines import Cells, Line, Setting, cells_of
from benchmarks.parts import sections
from benchmarks.plots import panels
from benchmarks.wording import NONE, changed, number, paired, percent, table, with_interval
from benchmarks.zoo import CLASSIFIERS
from onnx_lowrank import Options

KEEPS = (0.5, 0.3, 0.2, 0.1)
"""Shares of the whole file's parameters, of classifiers."""
SHARES = (0.9, 0.8, 0.6, 0.4)
"""Of models with a metric of their own."""
OURS, LOSSLESS = "ours", "ours, lossless"
CLEAR, CHANCE = "▲", "△"
"""A method above ours: by more than chance, and within it."""
MULTIPLE = Options().rank_multiple
METHODS = (
    "Shares are of the whole file's parameters; weights and calibration samples are the same for all. Plain SVD,"
    " SVD-LLM (whitened by the inputs, arXiv 2403.07378; no update of weights after it) and ASVD (inputs scaled by"
    " their root mean square to the power of ½, arXiv 2312.05821; no search for ranks) keep the same share of every"
    " weight; the energy threshold and ALDS (arXiv 2107.11442; its rule for ranks, without its groups of channels) have"
    f" one bound on the weights' own errors; what multiples of {MULTIPLE} leave over goes where the share"
    " is smallest, or the error largest. *paper* is our reading of arXiv 2412.06867 (first order, with the calibration"
    " labels; what it chooses may be smaller than asked for). SVD-LLM and ASVD share our shrinkage of moments. *Ours*"
    " is the default, ranks by calibration samples alone, no validation."
)
STEPS = (
    "*Plain* and *whitened, global* have the least predicted loss under `--sensitivity weights` and `inputs`; the *A ⊗"
    " B* and the *exact score* are ours without the perturbation range; every `+` is ours with one switch."
)
LABELLED = (
    "{n:,} test samples; in brackets the change from the original's ({top1}; loss {loss}) with its paired 95 %"
    " interval; then, where it is not what the column says, the share kept."
)
PRODUCT = (
    "*Ours, lossless* is what `--algorithm lossless` gives at that size, and it was given more: of up to three plans,"
    " validation labels chose the one that is shown. The other rows met no validation sample."
)
DIVERGED = (
    "Loss: divergence from the original's own outputs on test inputs, {unit}; mean over replicates, each of which"
    " leaves out another tenth of the calibration samples and draws other targets; in brackets the means of the ends"
    " of the 95 % intervals over test samples; then the range of the replicates' means."
)
OFF = 0.02
"""A plan's size is told where it is off by more than this share of what was asked for."""


def cell_name(method: str, keep: float, replicate: int | None = None) -> str:
    return f"{method}/{keep:g}" + ("" if replicate is None else f"/{replicate}")


def body(lines: Sequence[Line], setting: Setting) -> list[str]:
    product = cells_of(lines, "paper")

    def section(model: str, cells: Cells) -> list[str]:
        return _labelled(cells, product.get(model, {})) if model in CLASSIFIERS else _unlabelled(cells)

    return sections("methods", section, METHODS, STEPS, "![Accuracy against size](methods.svg)")(lines, setting)


def rows_of(cells: Cells, product: Cells) -> dict[str, list[Line | None]]:
    """Return method -> its cells at KEEPS, the product's own goal, of part "paper", last."""
    names = [name for name in STYLES if any(cell.startswith(f"{name}/") for cell in cells)]
    rows: dict[str, list[Line | None]]
    rows = {name: [cells.get(cell_name(name, keep)) for keep in KEEPS] for name in names}
    made = [product.get(f"lossless/{keep:g}") for keep in KEEPS]
    rows[LOSSLESS] = [cell and {**cell, "reachable": cell["outcome"] == "made"} for cell in made]
    return {name: row for name, row in rows.items() if any(row)}


def _labelled(cells: Cells, product: Cells) -> list[str]:
    rows = rows_of(cells, product)
    made = [cell for name, row in rows.items() if name != LOSSLESS for cell in row if cell and cell["reachable"]]
    if not made:
        return []
    before = {key: number(made[0][key][0], 4) for key in ("top1", "loss")}
    text = [LABELLED.format(**before, n=made[0]["n"]), "", *([PRODUCT, ""] if LOSSLESS in rows else [])]
    heads = [f"{percent(keep, 0)} kept" for keep in KEEPS]
    marks = {(name, keep): mark for mark, name, keep, _ in above(cells)}
    tops = [(n, *(_top1(c, k, marks.get((n, k))) for c, k in zip(row, KEEPS, strict=True))) for n, row in rows.items()]
    text += table(("top-1", *heads), tops)
    text += table(
        ("loss, nats", *heads), [(name, *(_shown(cell, "loss") for cell in row)) for name, row in rows.items()]
    )
    notes = [f"- {mark} {percent(keep, 0)}, {name}: {why}" for mark, name, keep, why in above(cells)]
    legend = f"{CLEAR} above ours by more than chance, {CHANCE} above ours within chance (paired 95 % interval):"
    return [*text, *([legend, "", *notes, ""] if notes else [])]


def above(cells: Cells) -> Iterator[tuple[str, str, float, str]]:
    """Yield (mark, method, size, by how much) of every cell of another method whose top-1 is above ours there."""
    for name, keep in ((name, keep) for keep in KEEPS for name in STYLES):
        ours, cell = cells.get(cell_name(OURS, keep)), cells.get(cell_name(name, keep))
        if name == OURS or ours is None or cell is None or not cell["reachable"]:
            continue
        if not ours["reachable"]:
            yield CLEAR, name, keep, "ours has no plan of this size"
        elif cell["top1"][1] > ours["top1"][1]:
            lead, losses = cell["ahead"]["top1"], [number(each["loss"][1], 4) for each in (cell, ours)]
            which = "ahead" if ours["loss"][1] < cell["loss"][1] else "behind, too"
            why = f"loss {losses[0]} against {losses[1]}: ours chose ranks by the loss, where it is {which}"
            yield CLEAR if lead[1] > 0 else CHANCE, name, keep, f"ahead by {with_interval(lead, 4)}; {why}"


def _top1(cell: Line | None, keep: float, mark: str | None) -> str:
    text = _shown(cell, "top1")
    if cell is not None and cell["reachable"] and abs(cell["kept"] - keep) > OFF * keep:
        text += f" at {percent(cell['kept'])}"
    return f"{mark} {text}" if mark else text


def _shown(cell: Line | None, key: str) -> str:
    return NONE if cell is None else paired(cell[key]) if cell["reachable"] else "none"


def _unlabelled(cells: Cells) -> list[str]:
    """Return the divergence of every method, and what it means for the recipe's metric on every test set."""
    split = {name: name.rsplit("/", 2) for name in cells}
    names = dict.fromkeys(method for method, _, _ in split.values())
    rows = {
        name: [[c for n, c in cells.items() if split[n][:2] == [name, f"{share:g}"]] for share in SHARES]
        for name in names
    }
    made = [cell for cell in cells.values() if cell["reachable"]]
    if not made:
        return []
    heads = [f"{percent(share, 0)} kept" for share in SHARES]
    text = [DIVERGED.format(unit=made[0]["unit"]), ""]
    text += table(("loss", *heads), [(name, *map(_spread, row)) for name, row in rows.items()])
    for test in made[0]["tests"]:
        told = [(name, *(_judged(row, test) for row in rows[name])) for name in names]
        text += table((f"{test}: the recipe's metric, first replicate", *heads), told)
    refusals = sorted({cell["why"] for cell in cells.values() if not cell["reachable"]})
    return [*text, *(f"- none: {why}" for why in refusals), *([""] if refusals else [])]


def _spread(cells: Sequence[Line]) -> str:
    reached = [cell["loss"] for cell in cells if cell["reachable"]]
    if not reached:
        return "none" if cells else NONE
    mean, low, high = (fmean(loss[i] for loss in reached) for i in range(3))
    means = sorted(loss[0] for loss in reached)
    spread = f" {means[0]:.3g}–{means[-1]:.3g}" if len(means) > 1 else ""
    part = "" if len(reached) == len(cells) else f" ({len(reached)} of {len(cells)} replicates)"
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]{spread}{part}"


def _judged(cells: Sequence[Line], test: str) -> str:
    made = [cell for cell in cells if cell["reachable"]]
    return changed(made[0]["tests"][test]) if made else NONE


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
LABELS = {LOSSLESS: "ours, lossless (validation labels too)"}
TICKS, ENDS = (0.1, 0.2, 0.3, 0.5, 1.0), (0.07, 1.1)
LEAST_DEPTH, DEEPER = 0.02, 2
"""A panel goes so far below the original, or DEEPER times as deep as ours does; a line that leaves it is lower."""
Point = tuple[float, float, float, float]
"""A plan: the share of the file's parameters it keeps, its top-1, and the ends of the interval."""


def points_of(cells: Cells, product: Cells) -> dict[str, list[Point]]:
    """Return the points of every method that reached a size, smallest first."""

    def point(cell: Line) -> Point:
        _, after, (change, low, high) = cell["top1"]
        return cell["kept"], after, after + low - change, after + high - change

    rows = rows_of(cells, product)
    made = {name: [point(c) for c in rows.get(name, [])[::-1] if c and c["reachable"]] for name in STYLES}
    there = any(points for name, points in made.items() if name != LOSSLESS)
    return {name: points for name, points in made.items() if points and there}


def floor_of(points: Mapping[str, Sequence[Point]], original: float) -> float:
    """Return the lowest top-1 that is drawn: all of ours is; what is far below would squash the rest."""
    lows = [p[2] for name in (OURS, LOSSLESS) for p in points.get(name, ())]
    depth = max(original - min(lows, default=original), LEAST_DEPTH)
    return max(original - DEEPER * depth, min(original - depth, *(p[1] for each in points.values() for p in each)))


def draw_accuracy(lines: Sequence[Line], path: Path) -> bool:
    """Draw top-1 against size, a panel a classifier."""
    models, product = cells_of(lines, "methods"), cells_of(lines, "paper")
    there = {name: points_of(models[name], product.get(name, {})) for name in CLASSIFIERS if name in models}
    tops = {name: [cell["top1"][0] for cell in models[name].values() if cell["reachable"]] for name in there}
    draws = [partial(_panel, model=name, original=tops[name][0], points=there[name]) for name in there if there[name]]
    return panels(path, draws, height=2.25, legend=3)


def _panel(axes: Any, model: str, original: float, points: Mapping[str, Sequence[Point]]) -> None:
    axes.axhline(original, color="0.25", linewidth=0.8, linestyle=(0, (4, 2)), label="original", zorder=1)
    for name, each in points.items():
        (colour, marker), (xs, ys, lows, highs) = STYLES[name], np.transpose(each)
        mine = name in (OURS, LOSSLESS)
        axes.errorbar(
            xs, ys, [ys - lows, highs - ys] if mine else None, label=LABELS.get(name, name), color=colour,
            marker=marker, markersize=4 if mine else 3.5, linewidth=1.8 if mine else 0.9,
            linestyle="--" if name == LOSSLESS else "-", elinewidth=0.8, capsize=2, zorder=4 if mine else 2,
        )  # fmt: skip
    axes.set(xscale="log", xlim=ENDS, title=model, xlabel="share of the file's parameters kept")
    axes.set(ylim=(floor_of(points, original), None), ylabel="top-1 on test labels")
    axes.set_xticks(TICKS, [number(tick, 0 if tick == 1 else 1) for tick in TICKS])
    axes.minorticks_off()
