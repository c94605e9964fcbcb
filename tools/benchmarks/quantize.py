"""Part "quantize": int8 alone, factors alone (for size, for speed), and both; all judged and timed alike.

"ours" is compact with the drop that the goals allow; a stack is gated as a whole, on the same validation samples. No
test set is given to `optimize`, so none keeps a model from being saved. Latency: one sample a call.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from benchmarks.curves import judge_of, said, triple
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank.errors import ModelError
from onnx_lowrank.options import Compact, Gate, Options, Resource, Runtime, Then
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.quantization.onnxruntime_int8 import quantised, settings
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import interleaved
from onnx_lowrank.samples import read
from onnx_lowrank.validation import Judge

PART = "quantize"
THREADS, SECONDS = 2, 20.0
"""Of the fastest model, once more: where a chain has to share its gain."""
FASTEST = "ours, latency"
STRICT = 0.002
"""A stricter gate, for a metric that is not the one of the tests: minilm's similarities beside human ones."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is made of a model: factors for the smallest `resource` (None: none at all), int8, or both."""

    name: str
    resource: Resource | None
    then: Then | None
    max_drop: float = MAX_DROP


CELLS = (
    Cell("int8 static", None, "quantize"),
    Cell("int8 dynamic", None, "quantize-dynamic"),
    Cell("int8 weights", None, "quantize-weights"),
    Cell("ours, size", "parameters", None),
    Cell(FASTEST, "latency", None),
    Cell("ours + int8 static", "parameters", "quantize"),
    Cell("ours + int8 dynamic", "parameters", "quantize-dynamic"),
    Cell("ours + int8 weights", "parameters", "quantize-weights"),
    Cell("ours + int8 weights, strict", "parameters", "quantize-weights", STRICT),
)
QUICK_CELLS = (CELLS[0], CELLS[3], CELLS[5])


def measure(entry: Entry, lines: Lines) -> None:
    """Make and measure what is missing; what is collected serves all cells. Raises LowRankError."""
    cells = QUICK_CELLS if lines.setting.quick else CELLS
    missing = [cell for cell in cells if not lines.has(PART, entry.name, cell.name, entry.sha256)]
    if not missing:
        return
    options = Options(
        metric=entry.metric, seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads, provider="cpu")
    )
    session = Session.of(
        entry.model, DataSources(data=entry.calibration.path, validation=entry.validation.path), options
    )
    sets = [entry.validation, *entry.tests]  # the original is run on each of them once
    judges = {each.name: judge_of(session.loaded, each, options, quick=lines.setting.quick) for each in sets}
    for cell in missing:
        data = _cell(entry, session, cell, lines, judges)
        lines.add(PART, entry.name, cell.name, entry.sha256, data)
        print(f"{entry.name}: {cell.name}: {data['outcome']}, {data['bytes'] / 1e6:.1f} MB", flush=True)


def _cell(entry: Entry, session: Session, cell: Cell, lines: Lines, judges: Mapping[str, Judge]) -> dict[str, Any]:
    about: dict[str, Any] = {
        "original_bytes": session.loaded.bytes, "allowed": cell.max_drop, "threads": session.options.threads,
        "factorable": sum(site.parameters for site in session.inventory.sites) / session.inventory.parameters,
    }  # fmt: skip
    about |= settings(cell.then) if cell.then is not None else {}
    started = time.perf_counter()
    try:
        model, made = _made(session, cell)
    except ModelError as error:
        return {**about, "outcome": "error", "reason": str(error), "bytes": 0}
    about |= {**made, "seconds": time.perf_counter() - started}
    if model is None:
        return {**about, "outcome": "nothing", "bytes": 0}
    if cell.resource == "latency":
        model_file(lines, entry).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, str(model_file(lines, entry)))
    return {**about, "outcome": "made", **_judged(entry, session, model, judges)}


def model_file(lines: Lines, entry: Entry) -> Path:
    """Return where the fastest model is kept."""
    return lines.folder / "runs" / f"{entry.name}-fastest.onnx"


def measure_threads(entry: Entry, lines: Lines) -> None:
    """Time the fastest model of part "quantize" with THREADS threads. Raises LowRankError."""
    path = model_file(lines, entry)
    if not path.is_file() or lines.has("threads", entry.name, FASTEST, entry.sha256):
        return
    first, second = (
        Runner(each, runtime=Runtime(provider="cpu", threads=THREADS), spin=True) for each in (entry.model, path)
    )
    feeds = timed_feeds(iter(read(entry.validation.path, first.inputs).feeds))
    timing = interleaved(first, second, feeds, seed=lines.setting.seed, seconds=SECONDS)
    data = {
        "latency": triple(timing.ratio), "milliseconds": [timing.first_ms, timing.second_ms], "pairs": timing.pairs,
        "threads": THREADS,
    }  # fmt: skip
    lines.add("threads", entry.name, FASTEST, entry.sha256, data)
    print(f"{entry.name}: {THREADS} threads: {data['latency']}", flush=True)


def _made(session: Session, cell: Cell) -> tuple[onnx.ModelProto | None, dict[str, Any]]:
    """Return the model, None where the gate let none pass, and what it holds."""
    if cell.resource is None:
        if cell.then is None:
            raise ValueError("a cell makes something of the model")
        model = quantised(session.loaded.model, cell.then, session.split.calibration.feeds)
        return model, {"reason": "", "bytes": model.ByteSize(), "parameters": 1.0, "macs": 1.0}
    gate = Gate(max_drop=cell.max_drop, observed=True)
    session.collect(session.metric(gate)[0])
    here = replace(session, options=replace(session.options, then=cell.then), trials={}, notes=list(session.notes))
    result = meet_goal(here, Compact(gate=gate, resource=cell.resource), dry_run=True)
    held = {"reason": result.reason, "bytes": result.after.bytes}
    if not result:
        return None, held
    for what in ("parameters", "macs"):
        held[what] = getattr(result.after, what) / getattr(result.before, what)
    operators = {site.id: site.op for site in result.sites}
    chosen = result.plan.choices if result.plan else ()
    won = Counter(f"{operators[choice.site]} {choice.option.scheme}" for choice in chosen)
    predicted = result.predicted_ratio
    return result.model, {**held, "schemes": dict(sorted(won.items())), "predicted_latency": predicted}


def _judged(entry: Entry, session: Session, model: onnx.ModelProto, judges: Mapping[str, Judge]) -> dict[str, Any]:
    options = session.options
    runner = Runner(model, runtime=options.runtime)
    found = {name: said(judge.judge(runner)) for name, judge in judges.items()}
    first, second = (Runner(each, runtime=options.runtime, spin=True) for each in (session.loaded.model, model))
    timing = interleaved(first, second, timed_feeds(iter(session.split.validation.feeds)), seed=options.seed)
    validation = found.pop(entry.validation.name)
    return {
        "validation": validation,
        "tests": found,
        "latency": triple(timing.ratio),
        "milliseconds": [timing.first_ms, timing.second_ms],
    }
