"""Methods at equal size: a row a method, a column a size, and whether ours is ahead at every one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.lines import Line
from benchmarks.methods import KEEPS, METHODS, OURS, PART, cell_name
from benchmarks.paper import PART as PAPER
from benchmarks.target import Found, Target
from benchmarks.wording import NONE, interval, number, percent, table

ABOUT = (
    "Shares are of the whole file's parameters; sites and calibration samples are the same for all. Plain SVD, SVD-LLM"
    " (whitened by the inputs, arXiv 2403.07378) and ASVD (inputs scaled by their size, arXiv 2312.05821) keep the same"
    " share of every weight; ALDS (arXiv 2107.11442) and the energy threshold choose ranks by the weights' own errors;"
    " *paper* is arXiv 2412.06867 to the letter, with the calibration labels; *ours* is the default, ranks by"
    " calibration samples alone, no validation. Change against the original's {top1}, paired 95 % intervals, {n:,} test"
    " samples."
)
ABOUT_LOSSLESS = (
    "*Ours, lossless* is what `--algorithm lossless` gives at that size, and it was given more: of up to three plans,"
    " validation labels chose the one that is shown. The other rows met no validation sample."
)
LOSSLESS = "ours, lossless"
DIGITS = 4


def lossless_cell(found: Found, model: str, keep: float) -> Line | None:
    """Return what the product's goal made at a size, in the form of the other methods' cells."""
    data = found.get((PAPER, model, f"lossless/{keep:g}"))
    return None if data is None else {**data, "reachable": data["outcome"] == "made"}


def methods(found: Found, model: str) -> list[str]:
    """Return the section of one model."""
    rows = {m: [found.get((PART, model, cell_name(m, keep))) for keep in KEEPS] for m in METHODS}
    there = {method: cells for method, cells in rows.items() if any(cells)}
    made = [cell for cells in there.values() for cell in cells if cell and cell["reachable"]]
    if not made:
        return []
    heads = [f"{percent(keep, 0)} kept" for keep in KEEPS]
    text = ["### Methods at equal size", "", ABOUT.format(top1=number(made[0]["top1"][0], DIGITS), n=made[0]["n"]), ""]
    product = [lossless_cell(found, model, keep) for keep in KEEPS]
    if any(product):
        there[LOSSLESS] = product
        text += [ABOUT_LOSSLESS, ""]
    for label, show in (("top-1", _top1), ("loss, nats", _loss)):
        text += table((label, *heads), [(m, *map(show, cells)) for m, cells in there.items()])
    return text


def _top1(cell: Line | None) -> str:
    return _shown(cell, "top1")


def _loss(cell: Line | None) -> str:
    return _shown(cell, "loss")


def _shown(cell: Line | None, key: str) -> str:
    if cell is None or not cell["reachable"]:
        return NONE if cell is None else "none"
    _, after, change = cell[key]
    return f"{number(after, DIGITS)} {interval([c + after - change[0] for c in change], DIGITS)}"


def method_targets(found: Found, models: Sequence[str]) -> Iterator[Target]:
    """Yield whether ours is on or above every other method's curve."""
    for model in models:
        asked = f"{model}: ours on or above every method's top-1 at {', '.join(percent(k, 0) for k in KEEPS)}"
        behind, known = [], 0
        for keep in KEEPS:
            cells = {m: found.get((PART, model, cell_name(m, keep))) for m in METHODS}
            if any(cell is None for cell in cells.values()):
                continue
            known += 1
            scores = {m: cell["top1"][1] for m, cell in cells.items() if cell is not None and cell["reachable"]}
            ours = scores.pop(OURS, 0.0)
            ahead = [f"{m} {number(score, DIGITS)}" for m, score in scores.items() if score > ours]
            if ahead:
                said = f"{percent(keep, 0)}: {', '.join(ahead)}, ours {number(ours, DIGITS)}"
                behind.append(said + _product(found, model, keep))
        text = "; ".join(behind) or f"at all {known} sizes"
        yield Target(asked, text if known else "", not behind if known == len(KEEPS) else None)


def _product(found: Found, model: str, keep: float) -> str:
    """Return what the product's goal reaches there, which is not what the target is decided by."""
    cell = lossless_cell(found, model, keep)
    if cell is None or not cell["reachable"]:
        return ""
    return f" ({LOSSLESS}, with validation labels: {number(cell['top1'][1], DIGITS)})"
