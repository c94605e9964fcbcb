"""What the terminal shows after `inspect`, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.labels import NARROW, labels
from onnx_lowrank.report.layout import titled
from onnx_lowrank.report.tables import (
    NAME_WIDTH,
    note_lines,
    number_of,
    skips_table,
)
from onnx_lowrank.results.inspection import Inspection
from onnx_lowrank.types import Skip


def render_inspection(
    inspection: Inspection, *, everything: bool = False, width: int = NARROW
) -> Iterator[RenderableType]:
    """Yield every weight of a model; skipped ones below 0.1 % of the parameters in groups, unless `everything`."""
    if (made := inspection.provenance) is not None:
        yield Text(made.line, style="bold red" if made.unchanged is False else "")
        yield Text("")
    numbers_of = {
        member: n for shared, n in number_of(f.members for f in inspection.shared_inputs).items() for member in shared
    }
    members_by_site = ["input"] if numbers_of else []
    spectra = [f"{share:.0%}".replace("%", " %") for share in (inspection.rows[0].rank_for if inspection.rows else ())]
    heads = ("weight", "shape", "size", "share", "even", "full", *spectra, *members_by_site)
    table = titled("Factorable weights", *heads)
    names = labels([row.site for row in inspection.rows], width)
    for row in inspection.rows:
        table.add_row(
            escape(names[row.site.id]),
            numbers.shape(row.site.shape),
            numbers.size(row.bytes),
            numbers.percent(row.site.parameters, inspection.parameters),
            "none" if row.break_even is None else f"{row.break_even:.0f}",
            str(row.full_rank),
            *(str(rank) for rank in row.rank_for.values()),
            *(f"#{numbers_of[row.site.id]}" if row.site.id in numbers_of else "" for _ in members_by_site),
        )
    yield table
    yield Text("even: the rank from which factors are no smaller than the weight; none: at every")
    if spectra:
        yield Text("rank below the full one they are. 90 %, 99 %: the ranks that hold this share of")
        yield Text("its energy; far under `even` or `full`, it compresses.")
    else:
        yield Text("rank below the full one they are.")
    if members_by_site:
        yield Text("input: weights of one number read the same tensor, and may share their first factor.")
    large = [s for s in inspection.skips if everything or s.parameters >= 0.001 * inspection.parameters]
    if large:
        yield _each_skip(large, inspection.parameters)
    rest = inspection.skips[len(large) :]
    if rest:
        yield skips_table(rest, inspection.parameters)
    yield from note_lines(inspection.notes)
    yield Text(
        f"{inspection.parameters:,} parameters, {numbers.size(inspection.bytes)}, opset {inspection.opset};"
        f" {numbers.counted(len(inspection.rows), 'factorable weight')}"
        f" {'holds' if len(inspection.rows) == 1 else 'hold'} {100 * inspection.share:.1f} %"
    )


def _each_skip(skips: Sequence[Skip], parameters: int) -> Table:
    table = titled("Weights left as they are", "weight", "shape", "share", "why")
    for skip in skips:
        table.add_row(
            escape(numbers.shorten(skip.weight, NAME_WIDTH)),
            numbers.shape(skip.shape),
            numbers.percent(skip.parameters, parameters),
            escape(f"{skip.why.value}: {skip.detail}" if skip.detail else skip.why.value),
        )
    table.columns[-1].justify = "left"
    return table
