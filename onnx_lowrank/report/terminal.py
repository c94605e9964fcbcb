"""Results as rich tables that fit 80 columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.layout import titled as _table
from onnx_lowrank.report.quantized_steps import step_tables
from onnx_lowrank.report.time_notes import time_notes
from onnx_lowrank.results.comparison import Comparison
from onnx_lowrank.results.inspection import Inspection
from onnx_lowrank.results.parts import Size
from onnx_lowrank.results.result import Result
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Curve, Option, Skip, Verdict, Why

NAME_WIDTH = 24


def render_result(result: Result) -> Iterator[RenderableType]:
    """Yield what a user sees after `optimize`: what is claimed in the first line, then why."""
    if result.changed:
        yield Text(result.reason, style="bold")
    yield from _warnings(result.warnings)
    if result.changed or result.warnings:
        yield ""
    if result.changed and result.plan is not None and result.verdict is not None:
        yield _before_after(result)
        yield ""
        yield from step_tables(result)
        yield _sites_table(result)
        yield Text("error: relative squared error at the weight's output; loss: what it adds;")
        yield Text("both predicted from calibration samples")
        if any(option.shared_input for _, option in _taken(result)):
            yield Text("shared #1: one first factor for all weights of this number, kept with the first")
        if any(_beyond(curve, o) for curve, o in _taken(result)):
            yield Text("* beyond the range in which substituted weights agreed: measured")
    else:
        if result.trials:
            yield _trials_table(result)
        yield from step_tables(result)
    yield ""
    yield _skips_table(result.skips, result.before.parameters)
    yield from _notes([result.metric, *result.notes, *time_notes(result)])
    yield from _notes(_verdict_notes(result.verdict, "validation"))
    yield from _notes(_verdict_notes(result.test, "test"))


def _before_after(result: Result) -> Table:
    table = _table("Before and after", "", "original", "compressed", "")
    _size_rows(table, result.before, result.after)
    dense = sum(site.parameters for site in result.sites)
    left = dense - (result.before.parameters - result.after.parameters)
    table.add_row("  of factorable weights", f"{dense:,}", f"{left:,}", numbers.percent(left, dense))
    for role, verdict in (("validation", result.verdict), ("test", result.test)):
        if verdict is not None:
            _metric_row(table, role, verdict)
    if result.latency is not None:
        _latency_row(table, result.latency)
        if result.predicted_ratio is not None:
            table.add_row("  ratio predicted", "", "", f"{result.predicted_ratio:.2f}")
    return table


def _size_rows(table: Table, before: Size, after: Size) -> None:
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


def _metric_row(table: Table, role: str, verdict: Verdict) -> None:
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


def _latency_row(table: Table, latency: Timing) -> None:
    table.add_row(
        f"latency\n  ratio ({latency.pairs:,} pairs)",
        f"{latency.first_ms:.3g} ms",
        f"{latency.second_ms:.3g} ms",
        f"\n{numbers.interval(latency.ratio, 2)}",
    )


def _sites_table(result: Result) -> Table:
    table = _table("Factored weights", "weight", "shape", "scheme", "rank", "kept", "error", "loss")
    curves = {curve.site: curve for curve in result.curves}
    sites = {site.id: site for site in result.sites}
    numbered = _numbered(option.shared_input for _, option in _taken(result) if option.shared_input)
    for choice in result.plan.choices if result.plan else ():
        site, option = sites[choice.site], choice.option
        table.add_row(
            escape(numbers.shorten(site.weight, 21)),
            numbers.shape(site.shape),
            _scheme(option, numbered),
            numbers.rank(option),
            numbers.percent(option.cost.parameters, site.parameters),
            numbers.small(option.error),
            numbers.small(option.loss) + ("*" if _beyond(curves.get(choice.site), option) else ""),
        )
    return table


def _numbered(shared_inputs: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """Return a number for every shared input, from 1, in order."""
    return {shared: number for number, shared in enumerate(dict.fromkeys(shared_inputs), 1)}


def _scheme(option: Option, numbered: Mapping[tuple[str, ...], int]) -> str:
    if option.shared_input:
        return f"{option.scheme} #{numbered[option.shared_input]}"
    return "" if option.dense else option.scheme


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
    table = _table(title, "plan", "parameters", "kept", "drop", "certified")
    for trial in result.trials:
        table.add_row(
            trial.plan.origin.removesuffix(" of a sequence"),
            f"{trial.size.parameters:,}",
            numbers.percent(trial.size.parameters, result.before.parameters),
            numbers.interval(trial.verdict.drop),
            f"below {numbers.metric(trial.verdict.bound.value)}",
        )
    return table


def _skips_table(skips: Iterable[Skip], parameters: int) -> Table:
    groups: dict[Why, list[Skip]] = defaultdict(list)
    for skip in skips:
        groups[skip.why].append(skip)
    table = _table("Left as they are", "why", "weights", "parameters", "share", "for example")
    for why, group in sorted(groups.items(), key=lambda item: -sum(s.parameters for s in item[1])):
        total = sum(skip.parameters for skip in group)
        largest = max(group, key=lambda skip: skip.parameters)
        example = f"{numbers.shorten(largest.weight, NAME_WIDTH)}: {largest.detail}"
        table.add_row(why.value, str(len(group)), f"{total:,}", numbers.percent(total, parameters), escape(example))
    table.columns[-1].justify = "left"
    return table


def _verdict_notes(verdict: Verdict | None, role: str) -> list[str]:
    if verdict is None:
        return []
    notes = [f"{role}: {note}" for note in verdict.notes]
    if verdict.agreement is not None and verdict.metric != "agreement":
        notes.append(f"{role}: same decision as the original in {numbers.interval(verdict.agreement)} of cases")
    return notes


def _warnings(warnings: Iterable[str]) -> Iterator[RenderableType]:
    for warning in warnings:
        yield Text(f"! {warning}", style="bold")


def _notes(notes: Iterable[str]) -> Iterator[RenderableType]:
    for note in notes:
        if note:
            yield Text(f"· {note}")


def render_comparison(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what a user sees after `compare`, but for the last line."""
    verdict = comparison.verdict
    yield Text(verdict.claim(1), style="bold")
    yield from _warnings(comparison.warnings)
    table = _table("Compared", "", "first", "second", "")
    _size_rows(table, comparison.before, comparison.after)
    _metric_row(table, "given data", verdict)
    _latency_row(table, comparison.latency)
    yield table
    outputs = _table("Outputs", "output", "relative L2", "cosine", "max error", "NaN or Inf")
    for difference in verdict.differences:
        outputs.add_row(
            escape(numbers.shorten(difference.name, NAME_WIDTH)),
            numbers.small(difference.relative_l2),
            f"{difference.cosine:.6f}",
            numbers.small(difference.max_error),
            "none" if difference.finite else "YES",
        )
    yield outputs
    yield from _notes([comparison.metric, *comparison.notes, *_verdict_notes(verdict, "compared")])


def render_inspection(inspection: Inspection, *, everything: bool = False) -> Iterator[RenderableType]:
    """Yield every weight of a model; skipped ones below 0.1 % of the parameters in groups, unless `everything`."""
    numbers_of = {
        member: n for shared, n in _numbered(f.members for f in inspection.shared_inputs).items() for member in shared
    }
    members_by_site = ["input"] if numbers_of else []
    table = _table("Factorable weights", "weight", "shape", "size", "share", "even", "90 %", "99 %", *members_by_site)
    for row in inspection.rows:
        table.add_row(
            escape(numbers.shorten(row.site.weight, NAME_WIDTH)),
            numbers.shape(row.site.shape),
            numbers.size(row.bytes),
            numbers.percent(row.site.parameters, inspection.parameters),
            f"{row.break_even:.0f}",
            *(str(rank) for rank in row.rank_for.values()),
            *(f"#{numbers_of[row.site.id]}" if row.site.id in numbers_of else "" for _ in members_by_site),
        )
    yield table
    yield Text("even: the rank at which factors are as large as the weight; 90 %, 99 %: the")
    yield Text("ranks that hold this share of its energy. Far under `even`, it compresses.")
    if members_by_site:
        yield Text("input: weights of one number read the same tensor, and may share their first factor.")
    large = [s for s in inspection.skips if everything or s.parameters >= 0.001 * inspection.parameters]
    if large:
        yield _each_skip(large, inspection.parameters)
    rest = inspection.skips[len(large) :]
    if rest:
        yield _skips_table(rest, inspection.parameters)
    yield from _notes(inspection.notes)
    yield Text(
        f"{inspection.parameters:,} parameters, {numbers.size(inspection.bytes)}, opset {inspection.opset};"
        f" {len(inspection.rows)} factorable weights hold {100 * inspection.share:.1f} %"
    )


def _each_skip(skips: Sequence[Skip], parameters: int) -> Table:
    table = _table("Weights left as they are", "weight", "shape", "share", "why")
    for skip in skips:
        table.add_row(
            escape(numbers.shorten(skip.weight, NAME_WIDTH)),
            numbers.shape(skip.shape),
            numbers.percent(skip.parameters, parameters),
            escape(f"{skip.why.value}: {skip.detail}" if skip.detail else skip.why.value),
        )
    table.columns[-1].justify = "left"
    return table
