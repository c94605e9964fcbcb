"""Predicted against measured time of whole models, plan by plan."""

from __future__ import annotations

from benchmarks.ablation_table import Inventory
from benchmarks.latency import PART, THREADS, cell_name
from benchmarks.lines import Line
from benchmarks.wording import number, percent, table, with_interval

KINDS = {"parameters": "parameters", "latency": "time"}


def latency(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    text: list[str] = []
    for threads in THREADS:
        data = inventory.get((PART, model, cell_name(threads)))
        text += _section(data, threads) if data is not None and data["plans"] else []
    return ["### Predicted and measured time", "", *text] if text else []


def threads_said(threads: int) -> str:
    """Return the number of threads in words."""
    return "one thread" if threads == 1 else f"{threads} threads"


def _section(data: Line, threads: int) -> list[str]:
    about = (
        f"{threads_said(threads).capitalize()}: {data['groups']} measurements for {data['sites']} weights took"
        f" {data['seconds']:.0f} s; the weights take"
        f" {percent(data['share'], 0)} of the original's {data['original_ms']:.3g} ms."
    )
    heads = (
        "plan: share of the factorable",
        "weights factored",
        "predicted time",
        "measured, of the original's",
        "error",
    )
    return [about, "", *table(heads, [_row(plan) for plan in data["plans"]])]


def error(plan: Line) -> float:
    """Return by what share of the measured time the prediction is too high."""
    return float(plan["predicted"] / plan["measured"][0] - 1)


def _row(plan: Line) -> tuple[str, ...]:
    kind = f"{percent(plan['share'], 0)} of {KINDS[plan['resource']]}"
    measured = with_interval(plan["measured"])
    off = f"{100 * error(plan):+.1f} %".replace("-", "−")
    return kind, str(plan["factored"]), number(plan["predicted"]), measured, off
