"""Methods at equal size: a row a method, a column a size, and whether ours is ahead at every one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.lines import Line
from benchmarks.methods import KEEPS, METHODS, OURS, PART, cell_name
from benchmarks.paper import PART as PAPER
from benchmarks.target import Inventory, Target
from benchmarks.wording import NONE, number, percent, table, with_interval
from onnx_lowrank.options import Options

CLEAR, CHANCE = "▲", "△"
"""A method above ours: by more than chance, and within it."""
ABOUT = (
    "Shares are of the whole file's parameters; sites and calibration samples are the same for all. Plain SVD, SVD-LLM"
    " (whitened by the inputs, arXiv 2403.07378; no update of weights after it) and ASVD (inputs scaled by their root"
    " mean square to the power of ½, arXiv 2312.05821; no search for ranks) keep the same share of every weight; the"
    " energy threshold and ALDS (arXiv 2107.11442; its rule for ranks, without its groups of channels) have one bound"
    " on the weights' own errors; what multiples of {multiple} leave over goes where the share is smallest, or the"
    " error largest. *paper* is our reading of arXiv 2412.06867 (first order, with the calibration labels; what it"
    " chooses may be smaller than asked for). SVD-LLM and ASVD share our shrinkage of moments. *Ours* is the default,"
    " ranks by calibration samples alone, no validation. {n:,} test samples; in brackets the change from the original's"
    " ({top1}; loss {loss}) with its paired 95 % interval; then, where it is not what the column says, the share kept."
)
ABOUT_LOSSLESS = (
    "*Ours, lossless* is what `--algorithm lossless` gives at that size, and it was given more: of up to three plans,"
    " validation labels chose the one that is shown. The other rows met no validation sample."
)
LOSSLESS = "ours, lossless"
DIGITS = 4
OFF = 0.02
"""A plan's size is told where it is off by more than this share of what was asked for."""
MULTIPLE = Options().rank_multiple


def lossless_cell(inventory: Inventory, model: str, keep: float) -> Line | None:
    """Return what the product's goal made at a size, in the form of the other methods' cells."""
    data = inventory.get((PAPER, model, f"lossless/{keep:g}"))
    return None if data is None else {**data, "reachable": data["outcome"] == "made"}


def methods(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    rows = {m: [inventory.get((PART, model, cell_name(m, keep))) for keep in KEEPS] for m in METHODS}
    there = {method: cells for method, cells in rows.items() if any(cells)}
    made = [cell for cells in there.values() for cell in cells if cell and cell["reachable"]]
    if not made:
        return []
    heads = [f"{percent(keep, 0)} kept" for keep in KEEPS]
    before = {key: number(made[0][key][0], DIGITS) for key in ("top1", "loss")}
    text = ["### Methods at equal size", "", ABOUT.format(**before, n=made[0]["n"], multiple=MULTIPLE), ""]
    product = [lossless_cell(inventory, model, keep) for keep in KEEPS]
    if any(product):
        there[LOSSLESS] = product
        text += [ABOUT_LOSSLESS, ""]
    marks = {(each.method, each.keep): each.mark for each in above(inventory, model)}
    text += table(
        ("top-1", *heads),
        [
            (m, *(_top1(cell, keep, marks.get((m, keep), "")) for cell, keep in zip(cells, KEEPS, strict=True)))
            for m, cells in there.items()
        ],
    )
    text += table(("loss, nats", *heads), [(m, *map(_loss, cells)) for m, cells in there.items()])
    return [*text, *_explained(inventory, model)]


@dataclass(frozen=True, slots=True)
class Above:
    """A method that is above ours at a size.

    lead: its top-1 less ours, with interval. losses: its loss and ours, nats.
    """

    method: str
    keep: float
    top1: float
    lead: Sequence[float]
    losses: tuple[float, float]

    @property
    def mark(self) -> str:
        """What stands beside its figure."""
        return CLEAR if self.lead[1] > 0 else CHANCE


def above(inventory: Inventory, model: str) -> Iterator[Above]:
    """Yield every cell of another method whose top-1 is above ours at that size, the largest size first."""
    for keep in KEEPS:
        ours = inventory.get((PART, model, cell_name(OURS, keep)))
        for method in METHODS:
            cell = inventory.get((PART, model, cell_name(method, keep)))
            if method == OURS or ours is None or cell is None or not cell["reachable"]:
                continue
            if not ours["reachable"]:
                yield Above(method, keep, cell["top1"][1], [1.0, 1.0, 1.0], (cell["loss"][1], math.inf))
            elif cell["top1"][1] > ours["top1"][1]:
                yield Above(method, keep, cell["top1"][1], cell["ahead"]["top1"], (cell["loss"][1], ours["loss"][1]))


def _explained(inventory: Inventory, model: str) -> list[str]:
    """Return a line for every marked cell: by how much, whether that is chance, and how the loss came out."""
    marked = list(above(inventory, model))
    if not marked:
        return []
    text = [f"{CLEAR} above ours by more than chance, {CHANCE} above ours within chance (paired 95 % interval):", ""]
    for each in marked:
        theirs, mine = each.losses
        loss = f"loss {number(theirs, DIGITS)} against {number(mine, DIGITS)}"
        why = f"{loss}: ours chose ranks by the loss, where it is " + ("ahead" if mine < theirs else "behind, too")
        lead = with_interval(each.lead, DIGITS)
        text.append(f"- {each.mark} {percent(each.keep, 0)}, {each.method}: ahead by {lead}; {why}")
    return [*text, ""]


def _top1(cell: Line | None, keep: float, mark: str) -> str:
    text = _shown(cell, "top1")
    if cell is not None and cell["reachable"] and abs(cell["kept"] - keep) > OFF * keep:
        text += f" at {percent(cell['kept'])}"
    return f"{mark} {text}".lstrip()


def _loss(cell: Line | None) -> str:
    return _shown(cell, "loss")


def _shown(cell: Line | None, key: str) -> str:
    if cell is None or not cell["reachable"]:
        return NONE if cell is None else "none"
    _, after, change = cell[key]
    return f"{number(after, DIGITS)} ({with_interval(change, DIGITS)})"


def method_targets(inventory: Inventory, models: Sequence[str]) -> Iterator[Target]:
    """Yield whether ours is on or above every other method's curve."""
    for model in models:
        asked = f"{model}: ours on or above every method's top-1 at {', '.join(percent(k, 0) for k in KEEPS)}"
        known = [k for k in KEEPS if all((PART, model, cell_name(m, k)) in inventory for m in METHODS)]
        marked = list(above(inventory, model))
        behind = [
            f"{each.mark} {percent(each.keep, 0)}: {each.method} {number(each.top1, DIGITS)}, ahead by"
            f" {with_interval(each.lead, DIGITS)}{_product(inventory, model, each.keep)}"
            for each in marked
        ]
        chance = " (each within chance)" if marked and all(each.mark == CHANCE for each in marked) else ""
        text = "; ".join(behind) + chance if behind else f"at all {len(known)} sizes"
        yield Target(asked, text if known else "", not behind if len(known) == len(KEEPS) else None)


def _product(inventory: Inventory, model: str, keep: float) -> str:
    """Return what the product's goal reaches there, which is not what the target is decided by."""
    cell = lossless_cell(inventory, model, keep)
    if cell is None or not cell["reachable"]:
        return ""
    return f" ({LOSSLESS}, with validation labels: {number(cell['top1'][1], DIGITS)})"
