"""Part "peers": the tools a user would pick, on the same model and samples, and whether they and ours bear each other.

Every row is a file that is read back, scored on the test labels and timed against the original. Nothing but the gate of
*ours* sees validation labels. Virtual environments of the peers: OUT/venvs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import MAX_DROP
from benchmarks.lines import Lines, source_digest
from benchmarks.paper import BATCH, Scores, compared, scored, some
from benchmarks.peer_checks import farthest, latency
from benchmarks.peer_tools import NotInstalledError, PeerError, ready, run_peer
from benchmarks.zoo import Entry
from onnx_lowrank.errors import LowRankError, ModelError, RuntimeProblem
from onnx_lowrank.graph.model_io import file_bytes, load, store
from onnx_lowrank.options import Compact, Gate, Options, Resource, Runtime, Then
from onnx_lowrank.pipeline import DataSources, Session, meet_goal
from onnx_lowrank.pipeline.loaded_model import same_interface
from onnx_lowrank.quantization.onnxruntime_int8 import quantised
from onnx_lowrank.runtime.batching import batch_size
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, read

PART = "peers"
ORIGINAL = "original"
SIZES = (1, 16)
"""Samples a call that latency is measured with."""
PEER_SAMPLES = 300
"""NNCF's default, spread over the calibration samples; what onnxruntime by its own defaults sees, too."""
CHECKED = 512
"""Validation samples, spread over the set, that outputs are compared on."""
SECONDS, QUICK_SECONDS = 3.0, 0.3
QUICK_DROP = 0.1
"""A trial's few samples tell nothing smaller."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: made of `source` by a peer (`tool`), by ours for the smallest `resource`, or by `then` alone.

    `like`: whose outputs it is held against. `strict`: no drop at all is allowed on validation.
    """

    name: str
    tool: str = ""
    resource: Resource | None = None
    then: Then | None = None
    source: str = ORIGINAL
    like: str = ""
    strict: bool = False


OURS, SLIM, SIM = "ours, size", "onnxslim", "onnxsim"
SLIM_OURS, SIM_OURS, OURS_SLIM = "onnxslim of ours", "onnxsim of ours", "ours of onnxslim"
CELLS = (
    Cell("int8 static", then="quantize"),
    Cell("int8 dynamic", then="quantize-dynamic"),
    Cell("int8 static, stock", "onnxruntime-static"),
    Cell("int8 dynamic, stock", "onnxruntime-dynamic"),
    Cell("NNCF", "nncf"),
    Cell("onnx-shrink-ray", "onnx-shrink-ray"),
    Cell(SLIM, "onnxslim", like=ORIGINAL),
    Cell(SIM, "onnxsim", like=ORIGINAL),
    Cell(OURS, resource="parameters"),
    Cell("ours, latency", resource="latency"),
    Cell("ours + int8 static", resource="parameters", then="quantize"),
    Cell("ours + int8 dynamic", resource="parameters", then="quantize-dynamic"),
    Cell("ours, size, drop 0", resource="parameters", strict=True),
    Cell("ours + int8 static, drop 0", resource="parameters", then="quantize", strict=True),
    Cell(SLIM_OURS, "onnxslim", source=OURS, like=OURS),
    Cell(SIM_OURS, "onnxsim", source=OURS, like=OURS),
    Cell(OURS_SLIM, resource="parameters", source=SLIM, like=OURS),
)
QUICK = ("int8 static", SLIM, OURS, SLIM_OURS)


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """A study whose samples were read and collected, and the seconds that took: every goal would need them."""

    session: Session
    seconds: float


@dataclass(slots=True, eq=False)
class Bench:
    """What the rows of a model share: samples, scores of those compared with, a collection, and the files made."""

    entry: Entry
    options: Options
    quick: bool
    venvs: Path
    folder: Path
    calibration: Samples
    validation: Samples
    test: Samples
    scores: dict[str, Scores]
    collected: dict[str, Collected] = field(default_factory=dict)

    @staticmethod
    def of(entry: Entry, lines: Lines) -> Bench:
        """Read the samples and score the original."""
        quick, setting = lines.setting.quick, lines.setting
        options = Options(metric="top1", seed=setting.seed, runtime=Runtime(threads=setting.threads, provider="cpu"))
        runner = Runner(entry.model, runtime=options.runtime)
        found = entry.calibration, entry.validation, entry.tests[0]
        calibration, validation, test = (_read(each.path, runner, quick=quick) for each in found)
        # files are those of this model, this code and these settings
        stem = f"{entry.name}-peers-{entry.sha256[:8]}-{source_digest()}-{setting.seed}{'-quick' * quick}"
        folder = lines.folder / "runs" / stem
        folder.mkdir(parents=True, exist_ok=True)
        scores = {ORIGINAL: _scored(runner, test)}
        venvs = lines.folder / "venvs"
        return Bench(entry, options, quick, venvs, folder, calibration, validation, test, scores)

    def max_drop(self, cell: Cell) -> float:
        """The drop that ours is allowed on validation."""
        return QUICK_DROP if self.quick else 0.0 if cell.strict else MAX_DROP

    def path(self, name: str) -> Path:
        """Return the file of a row."""
        return self.entry.model if name == ORIGINAL else self.folder / f"{name.replace(' ', '-').replace(',', '')}.onnx"

    def runner(self, name: str, *, spin: bool = False) -> Runner:
        """Open the file of a row. Raises ModelError."""
        return Runner(self.path(name), runtime=self.options.runtime, spin=spin)


def measure(entry: Entry, lines: Lines) -> None:
    """Make and measure what is missing of a classifier. Raises LowRankError."""
    absent = {
        line["cell"]
        for line in lines.all()
        if (line["part"], line["model"]) == (PART, entry.name) and line["data"]["outcome"] == "absent"
    }
    cells = [cell for cell in CELLS if not lines.setting.quick or cell.name in QUICK]
    missing = [c for c in cells if c.name in absent or not lines.has(PART, entry.name, c.name, entry.sha256)]
    if not missing:
        return
    bench = Bench.of(entry, lines)
    for cell in missing:
        data = row(bench, cell)
        lines.add(PART, entry.name, cell.name, entry.sha256, data)
        print(f"{entry.name}: {cell.name}: {data['outcome']} {data['reason']} {data.get('top1', '')}", flush=True)


def row(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Return a row; whatever keeps a file from being made, loaded or run is its reason."""
    about: dict[str, Any] = {
        "reason": "", "original_bytes": file_bytes(bench.entry.model), "allowed": bench.max_drop(cell),
        "threads": bench.options.threads,
    }  # fmt: skip
    try:
        about |= made(bench, cell)
    except NotInstalledError as error:
        return {**about, "outcome": "absent", "reason": str(error)}
    except (PeerError, LowRankError) as error:
        return {**about, "outcome": "failed", "reason": str(error)}
    if about["reason"]:
        return {**about, "outcome": "nothing"}
    try:
        runner = bench.runner(cell.name)
    except ModelError as error:
        why = str(error).removeprefix("onnxruntime cannot load the model: ")
        return {**about, "outcome": "failed", "reason": f"does not load: {why}"}
    try:
        return {**about, "outcome": "made", **_judged(bench, cell, runner)}
    except (ModelError, RuntimeProblem) as error:
        return {**about, "outcome": "failed", "reason": f"does not run: {error}"}


def made(bench: Bench, cell: Cell) -> dict[str, Any]:
    """Make a row's file; return what it took, with a reason where there was nothing to make or nothing passed.

    Raises PeerError, NotInstalledError, LowRankError.
    """
    if why := _without_source(bench, cell):
        return {"reason": why}
    bench.path(cell.name).unlink(missing_ok=True)
    if cell.tool:
        tool = ready(cell.tool, bench.venvs)
        given = (bench.path(cell.source), bench.path(cell.name), _samples(bench))
        return {"reason": "", "seconds": run_peer(tool.command, *given), "versions": dict(tool.versions)}
    if cell.resource is not None:
        return _ours(bench, cell, cell.resource)
    if cell.then is None:
        raise ValueError("a cell makes something of the model")
    start = time.perf_counter()
    model = quantised(load(bench.path(cell.source)), cell.then, bench.calibration.feeds)
    store(model, bench.path(cell.name))
    return {"reason": "", "seconds": time.perf_counter() - start}


def _without_source(bench: Bench, cell: Cell) -> str:
    """Make what a row is made of, where it is not there; return why it cannot be. Raises NotInstalledError."""
    if bench.path(cell.source).is_file():
        return ""
    try:
        why = made(bench, next(each for each in CELLS if each.name == cell.source))["reason"]
    except NotInstalledError:
        raise
    except (PeerError, LowRankError) as error:
        why = str(error)
    return f"there is no file of {cell.source}: {why}" if why else ""


def _ours(bench: Bench, cell: Cell, resource: Resource) -> dict[str, Any]:
    gate = Gate(max_drop=bench.max_drop(cell), observed=True)
    common = _collected(bench, cell.source, gate)
    session, start = common.session, time.perf_counter()
    here = replace(session, options=replace(session.options, then=cell.then), trials={}, notes=list(session.notes))
    result = meet_goal(here, Compact(gate=gate, resource=resource), dry_run=True)
    seconds = common.seconds + time.perf_counter() - start
    if not result:
        return {"reason": result.reason, "seconds": seconds}
    store(result.model, bench.path(cell.name))
    return {"reason": "", "seconds": seconds, "parameters": result.after.parameters / result.before.parameters}


def _collected(bench: Bench, source: str, gate: Gate) -> Collected:
    if source not in bench.collected:
        bench.collected.clear()  # two of them need not be in memory
        start = time.perf_counter()
        sources = DataSources(data=bench.calibration, validation=bench.validation)
        session = Session.of(bench.path(source), sources, bench.options)
        session.collect(session.metric(gate)[0])
        session.judge(gate)
        bench.collected[source] = Collected(session, time.perf_counter() - start)
    return bench.collected[source]


def _samples(bench: Bench) -> Path:
    """Return the file of calibration samples that a peer reads: inputs alone, no labels, one sample a call."""
    path, feeds = bench.folder / "samples.npz", bench.calibration.feeds
    if not path.is_file():
        count = min(len(feeds), PEER_SAMPLES)
        chosen = [feeds[i * len(feeds) // count] for i in range(count)]
        arrays: dict[str, Any] = {f"{i:05}/{name}": x for i, feed in enumerate(chosen) for name, x in feed.items()}
        np.savez(path, **arrays)
    return path


def _judged(bench: Bench, cell: Cell, runner: Runner) -> dict[str, Any]:
    same_interface(bench.runner(ORIGINAL), runner)
    mine = _scored(runner, bench.test)
    about: dict[str, Any] = {"bytes": file_bytes(bench.path(cell.name)), **compared(bench.scores[ORIGINAL], mine)}
    about["latency"] = _latencies(bench, cell)
    if cell.like and bench.path(cell.like).is_file():
        about["kept"] = _kept(bench, cell.like, mine, runner)
    return about


def _kept(bench: Bench, like: str, mine: Scores, runner: Runner) -> dict[str, Any]:
    """Return how far a model is from the one whose outputs it should have."""
    other = bench.runner(like)
    if like not in bench.scores:
        bench.scores[like] = _scored(other, bench.test)
    count = min(len(bench.validation), CHECKED)
    feeds = bench.validation.subset([i * len(bench.validation) // count for i in range(count)]).feeds
    pair = compared(bench.scores[like], mine)
    off = farthest(other, runner, feeds)
    return {"like": like, "off": off, "checked": count, "flips": pair["flips"], "top1": pair["top1"][:2]}


def _read(path: Path, runner: Runner, *, quick: bool) -> Samples:
    return some(read(path, runner.inputs), quick=quick)


def _scored(runner: Runner, samples: Samples) -> Scores:
    return scored(runner, samples, batch_size(runner, samples.feeds, BATCH))


def _latencies(bench: Bench, cell: Cell) -> dict[str, Any]:
    first, second = (bench.runner(name, spin=True) for name in (ORIGINAL, cell.name))
    seconds = QUICK_SECONDS if bench.quick else SECONDS
    feeds = bench.validation.feeds
    return {str(size): latency(first, second, feeds, size, seed=bench.options.seed, seconds=seconds) for size in SIZES}
