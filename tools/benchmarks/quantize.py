"""Part "quantize": int8 by onnxruntime, alone and behind factors, static and dynamic; all judged and timed alike.

"ours" is compact with the drop that the goals allow; a stack is gated as a whole, on the same validation samples. No
test set is given to `optimize`, so none keeps a model from being saved. Latency: one sample a call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx

from benchmarks.curves import judge_of, said, triple
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank.errors import ModelError
from onnx_lowrank.options import Compact, Gate, Options, Then
from onnx_lowrank.pipeline import DataSources, Study, reach
from onnx_lowrank.pipeline.finish import timed_feeds
from onnx_lowrank.quantize import quantised, settings
from onnx_lowrank.runtime import Runner
from onnx_lowrank.timing import interleaved

PART = "quantize"
GOAL = Compact(gate=Gate(max_drop=MAX_DROP))


@dataclass(frozen=True, slots=True)
class Cell:
    """What is made of a model: factors, int8, or both."""

    name: str
    factored: bool
    then: Then | None


CELLS = (
    Cell("int8 static", False, "quantize"),
    Cell("int8 dynamic", False, "quantize-dynamic"),
    Cell("ours", True, None),
    Cell("ours + int8 static", True, "quantize"),
    Cell("ours + int8 dynamic", True, "quantize-dynamic"),
)
QUICK_CELLS = (CELLS[0], CELLS[3])


def measure(entry: Entry, lines: Lines) -> None:
    """Make and measure what is missing; what is collected serves all cells. Raises LowRankError."""
    cells = QUICK_CELLS if lines.setting.quick else CELLS
    missing = [cell for cell in cells if not lines.has(PART, entry.name, cell.name, entry.sha256)]
    if not missing:
        return
    options = Options(metric=entry.metric, seed=lines.setting.seed, threads=lines.setting.threads, provider="cpu")
    study = Study.of(entry.model, DataSources(data=entry.calibration.path, validation=entry.validation.path), options)
    for cell in missing:
        data = _cell(entry, study, cell, lines)
        lines.add(PART, entry.name, cell.name, entry.sha256, data)
        print(f"{entry.name}: {cell.name}: {data['outcome']}, {data['bytes'] / 1e6:.1f} MB", flush=True)


def _cell(entry: Entry, study: Study, cell: Cell, lines: Lines) -> dict[str, Any]:
    about: dict[str, Any] = {"original_bytes": study.subject.bytes, "allowed": MAX_DROP, "factored": cell.factored}
    about |= settings(cell.then) if cell.then is not None else {}
    try:
        model, reason, size = _made(study, cell)
    except ModelError as error:
        return {**about, "outcome": "error", "reason": str(error), "bytes": 0}
    if model is None:
        return {**about, "outcome": "nothing", "reason": reason, "bytes": 0}
    return {**about, "outcome": "made", "reason": reason, "bytes": size, **_judged(entry, study, model, lines)}


def _made(study: Study, cell: Cell) -> tuple[onnx.ModelProto | None, str, int]:
    """Return the model, None where the gate let none pass; the reason; and the file's bytes."""
    if not cell.factored:
        if cell.then is None:
            raise ValueError("a cell makes something of the model")
        model = quantised(study.subject.model, cell.then, study.split.calibration.feeds)
        return model, "", model.ByteSize()
    study.collect(study.metric(GOAL.gate)[0])
    here = replace(study, options=replace(study.options, then=cell.then), trials={})
    result = reach(here, GOAL, dry_run=True)
    return (result.model if result else None), result.reason, result.after.bytes


def _judged(entry: Entry, study: Study, model: onnx.ModelProto, lines: Lines) -> dict[str, Any]:
    options, quick = study.options, lines.setting.quick
    runner = Runner(model, provider=options.provider, threads=options.threads)
    sets = [entry.validation, *entry.tests]
    found = {each.name: said(judge_of(study.subject, each, options, quick=quick).judge(runner)) for each in sets}
    first, second = (
        Runner(each, provider=options.provider, threads=options.threads, spin=True)
        for each in (study.subject.model, model)
    )
    timing = interleaved(first, second, timed_feeds(iter(study.split.validation.feeds)), seed=options.seed)
    validation = found.pop(entry.validation.name)
    return {
        "validation": validation,
        "tests": found,
        "latency": triple(timing.ratio),
        "milliseconds": [timing.first_ms, timing.second_ms],
    }
