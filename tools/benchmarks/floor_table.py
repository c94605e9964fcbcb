"""The floor in words: what each weight costs alone, the cheapest first, and how close the decisions are."""

from __future__ import annotations

from benchmarks.ablation_table import Inventory
from benchmarks.floor import CELL, PART
from benchmarks.lines import Line
from benchmarks.wording import NONE, interval, number, percent, table, with_interval

SHOWN = 8


def floor(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    data = inventory.get((PART, model, CELL))
    if data is None or not data["weights"]:
        return []
    heads = ("weight", "scheme, rank", "parameters saved", f"drop of `{_metric(data)}`", f"loss, {data['unit']}")
    heads += ("decisions that flip",) if data["margins"] else ()
    rows = [_row(data, weight) for weight in ranked(data)[:SHOWN]]
    return ["### Floor: one weight alone, at its largest rank", "", *_said(data), *table(heads, rows)]


def ranked(data: Line) -> list[Line]:
    """Return the weights by drop for every parameter saved, a gain taken as none; ties by their loss for it."""
    return sorted(data["weights"], key=lambda w: (max(w["drop"][0], 0.0) / w["saved"], w["loss"][0] / w["saved"]))


def floor_note(inventory: Inventory, model: str) -> str:
    """Return `; see floor: 8 of 34 weights alone exceed .005 (…), on 200 samples`, "" where it was not measured."""
    data = inventory.get((PART, model, CELL))
    return f"; see floor: {_count(data)}, on {data['n']} samples" if data is not None else ""


def _count(data: Line) -> str:
    count = sum(weight["exceeds"] for weight in data["weights"])
    surely = sum(weight["drop"][1] > data["allowed"] for weight in data["weights"])
    alone = f"{count} of {len(data['weights'])} weights alone exceed {number(data['allowed'])}"
    return f"{alone} ({surely} with their whole interval)"


def _metric(data: Line) -> str:
    return str(data["metric"]).rpartition(":")[2]


def _row(data: Line, weight: Line) -> tuple[str, ...]:
    saved = f"{weight['saved']:,} ({percent(weight['saved'] / data['factorable'], 2)})"
    loss = f"{weight['loss'][0]:.2g} [{weight['loss'][1]:.2g}, {weight['loss'][2]:.2g}]"
    cells = (f"`{weight['node'] or weight['site']}`", f"{weight['scheme']}, {weight['rank']}", saved)
    cells += (with_interval(weight["drop"], 3 if data["margins"] else 5), loss)  # a correlation moves in small steps
    return (*cells, with_interval(weight["flips"]) if weight["flips"] else NONE) if data["margins"] else cells


def _said(data: Line) -> list[str]:
    """Return the paragraphs above the table."""
    weights = data["weights"]
    unharmed = sum(weight["saved"] for weight in weights if not weight["exceeds"])
    text = [
        f"On {data['n']} validation samples{_resolution(data)}: {_count(data)}."
        f" The others save {percent(unharmed / data['factorable'])} of the factorable parameters at these ranks;"
        f" all save {percent(sum(weight['saved'] for weight in weights) / data['factorable'])}."
        f" Shown: {min(SHOWN, len(weights))} of {len(weights)} weights, the least drop for every parameter saved first"
        " (a gain counts as no drop, ties by loss).",
        "",
    ]
    if data["margins"]:
        shares = (f"{number(bound, 2)}: {number(share)} {interval(ends)}" for bound, share, ends in _shares(data))
        text += [
            f"How close the original's own decisions are: the share of {data['margins']['n']} validation samples with"
            f" p₁ − p₂ below {', below '.join(shares)}.",
            "",
        ]
    return text


def _shares(data: Line) -> list[tuple[float, float, list[float]]]:
    return [(bound, share, [share, low, high]) for bound, share, low, high in data["margins"]["shares"]]


def _resolution(data: Line) -> str:
    """Say what one decision weighs, where a sample is one."""
    return f" (one decision is {number(1 / data['n'])})" if data["margins"] else ""
