"""What factoring and post-quantisation each do by themselves, beside both together."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnx_lowrank.report import numbers
from onnx_lowrank.report.layout import titled
from onnx_lowrank.results.result import Result


def step_tables(result: Result) -> Iterator[RenderableType]:
    """Yield what each step does by itself, where there is more than one."""
    if not result.steps:
        return
    name = numbers.shorten(result.steps[0].verdict.metric.rpartition(":")[2], 16)
    timed = any(step.latency is not None for step in result.steps)
    table = titled("Each step, on validation", "", "file", name, "drop", *(["latency ×"] if timed else []))
    original = result.steps[0].verdict.original
    table.add_row("original", numbers.size(result.before.bytes), numbers.metric(original.estimate))
    for step in result.steps:
        latency = [] if step.latency is None else [numbers.interval(step.latency.ratio, 2)]
        size, value = numbers.size(step.size.bytes), numbers.metric(step.verdict.candidate.estimate)
        table.add_row(step.name, size, value, numbers.interval(step.verdict.drop), *latency)
    yield table
    yield ""
    tested = [(step.name, step.test) for step in result.steps if step.test is not None]
    if tested:
        table = titled("Each step, on test", "", name, "drop")
        table.add_row("original", numbers.metric(tested[0][1].original.estimate), "")
        for label, test in tested:
            table.add_row(label, numbers.metric(test.candidate.estimate), numbers.interval(test.drop))
        yield table
        yield ""
