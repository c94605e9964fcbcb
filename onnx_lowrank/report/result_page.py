"""What the terminal shows after `optimize`, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.accuracy_table import accuracy_tables
from onnx_lowrank.report.labels import NARROW, labels, room
from onnx_lowrank.report.layout import titled
from onnx_lowrank.report.quantized_steps import step_tables
from onnx_lowrank.report.tables import (
    latency_row,
    metric_row,
    note_lines,
    number_of,
    size_rows,
    skips_table,
    verdict_notes,
    warning_lines,
)
from onnx_lowrank.report.time_notes import time_notes
from onnx_lowrank.results.result import Result
from onnx_lowrank.types import DENSE, OWN, Choice, Curve, Option

ROWS = 16
"""Changed weights that are listed: with the rest of the answer they fit a screen."""


def render_result(result: Result, *, everything: bool = False, width: int = NARROW) -> Iterator[RenderableType]:
    """Yield what a user sees after `optimize`: what is claimed in the first line, then why.

    everything: weights that stay as they are are listed, too; width: columns of the terminal.
    """
    claim, colour = (result.reason, "green") if result.changed else (f"nothing saved: {result.reason}", "red")
    yield Text(claim, style=f"bold {colour}")
    yield from warning_lines(result.warnings)
    yield ""
    if result.changed and result.plan is not None and result.verdict is not None:
        yield _before_after(result)
        yield ""
        yield from accuracy_tables(result)
        yield from step_tables(result)
        yield _sites_table(result, everything=everything, width=width)
        if more := 0 if everything else len(result.plan.factored) - len(_shown(result, everything=False)):
            lose = "changes, and loses less" if more == 1 else "change, and lose less"
            yield Text(f"{numbers.counted(more, 'more weight')} {lose} (--all lists all)")
        if unchanged := [] if everything else _unchanged(result):
            stays = f"{numbers.counted(len(unchanged), 'weight')} {'stays' if len(unchanged) == 1 else 'stay'}"
            yield Text(f"{stays} unchanged though factorable (--all lists all)")
        yield Text("error: relative squared error at the weight's output; loss: what it adds;")
        yield Text("both predicted from calibration samples")
        if any(option.shared_input for _, option in _taken(result)):
            yield Text("shared #1: one first factor for all weights of this number, kept with the first")
        if any(_beyond(curve, o) for curve, o in _taken(result)):
            yield Text("* this weight was measured to lose more than predicted: corrected")
    else:
        if result.trials:
            yield _trials_table(result)
        yield from accuracy_tables(result)
        yield from step_tables(result)
    yield ""
    yield skips_table(result.skips, result.before.parameters)
    yield from note_lines([result.metric, *result.notes, *time_notes(result)])
    yield from note_lines(verdict_notes(result.verdict, "validation"))
    yield from note_lines(verdict_notes(result.test, "test"))


def _before_after(result: Result) -> Table:
    table = titled("Before and after", "", "original", "compressed", "")
    size_rows(table, result.before, result.after)
    dense = sum(site.parameters for site in result.sites)
    left = dense - (result.before.parameters - result.after.parameters)
    table.add_row("  of factorable weights", f"{dense:,}", f"{left:,}", numbers.percent(left, dense))
    for role, verdict in (("validation", result.verdict), ("test", result.test)):
        if verdict is not None:
            metric_row(table, role, verdict)
    if result.latency is not None:
        latency_row(table, result.latency)
        if result.predicted_ratio is not None:
            table.add_row("  ratio predicted", "", "", f"{result.predicted_ratio:.2f}")
    return table


def ending(result: Result, saved: Path | None) -> str:
    """Return the last line, for screens from which the first has gone: what was saved where, and what is claimed."""
    where = "not saved (dry run or demo)" if saved is None else f"saved {saved}"
    word = result.verdict.word if result.verdict else "not judged"
    return f"{where}: {word}, {numbers.percent(result.after.bytes, result.before.bytes)} of the bytes"


def _unchanged(result: Result) -> list[str]:
    """Return the weights that a plan leaves as they are, by name."""
    return [c.weight for c in (result.plan.choices if result.plan else ()) if c.option.dense]


def _sites_table(result: Result, *, everything: bool, width: int) -> Table:
    table = titled(
        "Weights" if everything else "Changed weights", "weight", "shape", "scheme", "rank", "kept", "error", "loss"
    )
    curves = {curve.site: curve for curve in result.curves}
    sites = {site.id: site for site in result.sites}
    names = labels(result.sites, width)
    table.columns[0].no_wrap = max(map(len, names.values()), default=0) <= room(width)  # long schemes give way
    numbered = number_of(option.shared_input for _, option in _taken(result) if option.shared_input)
    for choice in _shown(result, everything=everything):
        site, option = sites[choice.site], choice.option
        table.add_row(
            escape(names[site.id]),
            numbers.shape(site.shape),
            _scheme(option, numbered),
            numbers.rank(option),
            numbers.percent(option.cost.parameters, site.parameters),
            numbers.small(option.error),
            numbers.small(option.loss) + ("*" if _beyond(curves.get(choice.site), option) else ""),
        )
    return table


def _shown(result: Result, *, everything: bool) -> list[Choice]:
    """Return the choices to list, in network order: all, or of the changed ones those that lose most."""
    choices = result.plan.choices if result.plan else ()
    if everything:
        return list(choices)
    changed = [choice for choice in choices if not choice.option.dense]
    most = {c.site for c in sorted(changed, key=lambda c: -c.option.loss)[:ROWS]}
    return [choice for choice in changed if choice.site in most]


def _scheme(option: Option, numbered: Mapping[tuple[str, ...], int]) -> str:
    storage = "" if option.form.storage == OWN else option.form.storage
    name = option.scheme if option.scheme != DENSE else ""
    if option.shared_input:
        name = f"{option.scheme} #{numbered[option.shared_input]}"
    return " ".join(part for part in (name, storage) if part)


def _taken(result: Result) -> list[tuple[Curve | None, Option]]:
    """Return every site's curve with the option that was taken."""
    curves = {curve.site: curve for curve in result.curves}
    return [(curves.get(c.site), c.option) for c in (result.plan.choices if result.plan else ())]


def _beyond(curve: Curve | None, option: Option) -> bool:
    """Return whether an option lies beyond the trust range: its loss was measured."""
    return curve is not None and curve.trust_range is not None and not option.dense and option.error > curve.trust_range


def _trials_table(result: Result) -> Table:
    first = result.trials[0].verdict
    title = f"Measured on validation, none accepted (allowed: below {first.allowed:g})"
    table = titled(title, "plan", "parameters", "kept", "drop", "certified")
    for trial in result.trials:
        table.add_row(
            trial.plan.origin.removesuffix(" of a sequence"),
            f"{trial.size.parameters:,}",
            numbers.percent(trial.size.parameters, result.before.parameters),
            numbers.interval(trial.verdict.drop),
            f"below {numbers.metric(trial.verdict.bound.value)}",
        )
    return table
