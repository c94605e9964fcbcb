"""The table of what the goals deliver: a column a goal, a row a quantity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.goals import CELLS, Cell
from benchmarks.lines import Line
from benchmarks.targets import Inventory
from benchmarks.wording import KINDS, NONE, both, megabytes, number, percent, table, with_interval

OUTCOMES = {"saved": "saved", "nothing": "nothing acceptable (exit 3)"}


def goal_table(inventory: Inventory, model: str) -> list[str]:
    """Return the lines of a model's section."""
    there = [(c, inventory["goals", model, c.name]) for c in CELLS if ("goals", model, c.name) in inventory]
    if not there:
        return []
    heads = ["", *(f"{cell.algorithm}, {KINDS[cell.sensitivity]}" for cell, _ in there)]
    columns = [data for _, data in there]
    rows = [[label, *(make(data) for data in columns)] for label, make in _rows(columns)]
    reasons = [_reason(cell, data) for cell, data in there if data["outcome"] != "saved"]
    commands = ["```sh", *(data["command"] for data in columns), "```"]
    return ["### What the goals deliver", "", *table(heads, rows), *_paragraph(reasons), *_paragraph(commands)]


def _rows(columns: Sequence[Line]) -> list[tuple[str, Callable[[Line], str]]]:
    tests = dict.fromkeys(name for data in columns for name in data["tests"])
    return [
        ("outcome", lambda data: OUTCOMES.get(data["outcome"], data["outcome"])),
        ("file, MB", _if_saved(_file)),
        ("parameters kept", _if_saved(lambda data: _share(data, "parameters"))),
        ("of the factorable", _if_saved(lambda data: percent(data["kept_factorable"]))),
        ("MACs kept", _if_saved(lambda data: _share(data, "macs"))),
        ("weights factored", _if_saved(lambda data: str(data["factored"]))),
        ("validation", _if_saved(lambda data: both(data["validation"]))),
        *((name, _if_saved(_on(name))) for name in tests),
        ("latency ×", _if_saved(lambda data: with_interval(data["latency"], 2))),
        ("ms a call", _if_saved(lambda data: " → ".join(number(ms, 1) for ms in data["milliseconds"]))),
        ("validations used", lambda data: str(data.get("validations", NONE))),
        ("seconds", lambda data: f"{data['seconds']:.0f}"),
        ("peak memory, MB", lambda data: f"{data['peak_bytes'] / 1e6:,.0f}"),
    ]


def _if_saved(make: Callable[[Line], str]) -> Callable[[Line], str]:
    return lambda data: make(data) if data["outcome"] == "saved" else NONE


def _on(test: str) -> Callable[[Line], str]:
    return lambda data: both(data["tests"][test])


def _file(data: Line) -> str:
    before, after = data["before"]["bytes"], data["after"]["bytes"]
    return f"{megabytes(before)} → {megabytes(after)} ({percent(after / before)})"


def _share(data: Line, what: str) -> str:
    return percent(data["after"][what] / data["before"][what]) if data["before"][what] else NONE


def _reason(cell: Cell, data: Line) -> str:
    return f"- {cell.algorithm}, {KINDS[cell.sensitivity]}: {data['reason']}"


def _paragraph(lines: list[str]) -> list[str]:
    return [*lines, ""] if lines else []
