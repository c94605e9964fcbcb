"""What the terminal shows after `analyze`, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.labels import NARROW, labels
from onnx_lowrank.report.layout import titled
from onnx_lowrank.report.tables import note_lines, skips_table, warning_lines
from onnx_lowrank.results.analysis import Analysis

LAYERS = 12
"""Layers that are listed, of those that lose most."""


def render_analysis(analysis: Analysis, *, everything: bool = False, width: int = NARROW) -> Iterator[RenderableType]:
    """Yield the conclusion, what sizes cost, and the layers that lose most; `everything`: all layers."""
    result = analysis.result
    yield Text(analysis.reason, style="bold")
    yield from warning_lines(result.warnings)
    yield ""
    if analysis.points:
        heads = (f"{analysis.resource} kept", "predicted loss", "measured", "decisions changed", "drop certified")
        table = titled(f"What a size would cost (loss: {analysis.unit})", *heads)
        for point in analysis.points:
            table.add_row(
                f"{100 * point.kept:.1f} %",
                numbers.small(point.predicted),
                "–" if point.measured is None else numbers.small(point.measured),
                "–" if point.changed is None else f"{100 * point.changed:.1f} %",
                "–" if point.bound is None else f"below {numbers.metric(point.bound)}",
            )
        yield table
        yield Text("measured, changed: on samples that nothing was fitted on; certified: as may be")
        yield Text("expected of the validation samples there are. Nothing was validated.")
        yield ""
    if analysis.layers:
        table = titled("Single layers", "weight", "shape", "share", "error", "loss")
        names = labels([layer.site for layer in analysis.layers], width)
        shown = analysis.layers if everything else analysis.layers[:LAYERS]
        for layer in shown:
            table.add_row(
                escape(names[layer.site.id]),
                numbers.shape(layer.site.shape),
                f"{100 * layer.share:.1f} %",
                numbers.small(layer.error),
                numbers.small(layer.loss),
            )
        yield table
        yield Text(f"loss, error: of the layer by itself, at {100 * analysis.part:.0f} % of its {analysis.resource}")
        if rest := len(analysis.layers) - len(shown):
            yield Text(
                f"and {numbers.counted(rest, 'weight')} that {'loses' if rest == 1 else 'lose'} less (--all lists all)"
            )
    yield skips_table(result.skips, result.before.parameters)
    yield from note_lines([result.metric, *result.notes])
