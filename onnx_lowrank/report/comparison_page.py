"""What the terminal shows after `compare`, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.layout import titled
from onnx_lowrank.report.tables import (
    NAME_WIDTH,
    latency_row,
    metric_row,
    note_lines,
    size_rows,
    verdict_notes,
    warning_lines,
)
from onnx_lowrank.results.comparison import Comparison


def render_comparison(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what a user sees after `compare`, but for the last line."""
    verdict = comparison.verdict
    yield Text(verdict.claim(1), style="bold")
    yield from warning_lines(comparison.warnings)
    table = titled("Compared", "", "first", "second", "")
    size_rows(table, comparison.before, comparison.after)
    metric_row(table, "given data", verdict)
    latency_row(table, comparison.latency)
    yield table
    outputs = titled("Outputs", "output", "relative L2", "cosine", "max error", "NaN or Inf")
    for difference in verdict.differences:
        outputs.add_row(
            escape(numbers.shorten(difference.name, NAME_WIDTH)),
            numbers.small(difference.relative_l2),
            f"{difference.cosine:.6f}",
            numbers.small(difference.max_error),
            "none" if difference.finite else "YES",
        )
    yield outputs
    yield from note_lines([comparison.metric, *comparison.notes, *verdict_notes(verdict, "compared")])
