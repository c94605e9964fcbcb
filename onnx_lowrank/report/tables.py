"""Rows and tables that more than one page of the terminal has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.layout import titled
from onnx_lowrank.results.parts import Size
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Interval, Skip, Verdict, Why

NAME_WIDTH = 24


def size_rows(table: Table, before: Size, after: Size) -> None:
    """Add what a file, its multiply-accumulates and its parameters were and are."""
    rows = (
        ("file", numbers.size(before.bytes), numbers.size(after.bytes), numbers.percent(after.bytes, before.bytes)),
        (
            "MACs a sample",
            numbers.count(before.macs),
            numbers.count(after.macs),
            numbers.percent(after.macs, before.macs),
        ),
        (
            "parameters",
            f"{before.parameters:,}",
            f"{after.parameters:,}",
            numbers.percent(after.parameters, before.parameters),
        ),
    )
    for row in rows:
        table.add_row(*row)


def metric_row(table: Table, role: str, verdict: Verdict) -> None:
    """Add what both models' metric is on samples of a role, the drop, its bound, and the other outputs' drops."""
    table.add_row(
        f"{numbers.shorten(verdict.metric.rpartition(':')[2], 20)}, {role}\n  drop (n = {verdict.samples:,})",
        numbers.metric(verdict.original.estimate),
        numbers.metric(verdict.candidate.estimate),
        f"\n{numbers.interval(verdict.drop)}",
    )
    level = f"{100 * verdict.bound.confidence:g} %"
    table.add_row(f"  certified at {level}: below", "", "", numbers.metric(verdict.bound.value))
    for other in verdict.others:
        name = numbers.shorten(other.name, 16)
        table.add_row(f"  {other.metric.partition('@')[0]} of {name}", "", "", numbers.interval(other.drop))


def latency_row(table: Table, latency: Timing) -> None:
    """Add both models' milliseconds and their ratio."""
    table.add_row(
        f"latency\n  ratio ({latency.pairs:,} pairs)",
        f"{latency.first_ms:.3g} ms",
        f"{latency.second_ms:.3g} ms",
        f"\n{numbers.interval(latency.ratio, 2)}",
    )


def skips_table(skips: Iterable[Skip], parameters: int) -> Table:
    """Return what is left as it is: by reason, with the largest of each as an example."""
    groups: dict[Why, list[Skip]] = defaultdict(list)
    for skip in skips:
        groups[skip.why].append(skip)
    table = titled("Left as they are", "why", "weights", "parameters", "share", "for example")
    for why, group in sorted(groups.items(), key=lambda item: -sum(s.parameters for s in item[1])):
        total = sum(skip.parameters for skip in group)
        largest = max(group, key=lambda skip: skip.parameters)
        example = f"{numbers.shorten(largest.weight, NAME_WIDTH)}: {largest.detail}"
        table.add_row(why.value, str(len(group)), f"{total:,}", numbers.percent(total, parameters), escape(example))
    table.columns[-1].justify = "left"
    return table


def verdict_notes(verdict: Verdict | None, role: str) -> list[str]:
    """Return the notes of a verdict on samples of a role; none without a verdict."""
    return [] if verdict is None else role_notes(verdict.notes, verdict.agreement, verdict.metric, role)


def role_notes(notes: Iterable[str], agreement: Interval | None, metric: str, role: str) -> list[str]:
    """Return notes and the agreement of a verdict of a metric as notes on samples of a role."""
    told = [f"{role}: {note}" for note in notes]
    if agreement is not None and metric != "agreement":
        told.append(f"{role}: same decision as the original in {numbers.interval(agreement)} of cases")
    return told


def warning_lines(warnings: Iterable[str]) -> Iterator[RenderableType]:
    """Yield a line for each warning."""
    for warning in warnings:
        yield Text(f"! {warning}", style="bold")


def note_lines(notes: Iterable[str]) -> Iterator[RenderableType]:
    """Yield a line for each note that is not empty."""
    for note in notes:
        if note:
            yield Text(f"· {note}")


def number_of(shared_inputs: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """Return a number for every shared input, from 1, in order."""
    return {shared: number for number, shared in enumerate(dict.fromkeys(shared_inputs), 1)}
