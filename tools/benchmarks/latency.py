"""Part "latency": the predicted time of a whole model against the measured one, for plans of several sizes.

Times depend on shapes and ranks, not on which numbers the factors hold: plain SVD of a few samples' worth of statistics
gives the plans, half of them by a share of the factorable parameters, half by a share of the factorable weights' time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.curves import triple
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank.latency import Stopwatch, Timed
from onnx_lowrank.options import Options, Resource, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.calibrate import Calibrated, calibrate
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import Silent
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import interleaved
from onnx_lowrank.samples import read
from onnx_lowrank.types import Feed, Plan
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory

PART = "latency"
THREADS = (1, 2)
SHARES = (0.9, 0.7, 0.5, 0.3)
QUICK_SHARES = (0.7, 0.4)
RESOURCES: tuple[Resource, ...] = ("parameters", "latency")
SAMPLES = 32
SECONDS = 10.0


def cell_name(threads: int) -> str:
    """Return the cell of so many threads."""
    return f"plans, {threads} threads"


def measure(entry: Entry, lines: Lines) -> None:
    """Measure a model's plans, if that has not been done. Raises LowRankError."""
    for threads in THREADS:
        if not lines.has(PART, entry.name, cell_name(threads), entry.sha256):
            lines.add(PART, entry.name, cell_name(threads), entry.sha256, _cell(entry, lines, threads))


def _cell(entry: Entry, lines: Lines, threads: int) -> dict[str, Any]:
    options = Options(seed=lines.setting.seed, runtime=Runtime(threads=threads), sensitivity="weights")
    loaded = LoadedModel.of(entry.model, options)
    inventory = find_sites(loaded.model, multiple=options.rank_multiple)
    calibrated = _calibrated(entry, loaded, inventory, options)
    feeds = timed_feeds(iter(read(entry.validation.path, loaded.runner.inputs).feeds))
    start = time.perf_counter()
    watch = Stopwatch.of(loaded.model, inventory, calibrated.observed, feeds, options)
    timed = watch.timed(calibrated.decomposed.curves, calibrated.decomposed.factors, Silent())
    data: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "groups": len(watch.groups),
        "sites": len(inventory.sites),
        "original_ms": timed.original,
        "share": sum(curve.dense.cost.milliseconds for curve in timed.curves) / timed.original,
        "plans": [],
    }
    for plan, about in plans_of(timed, inventory, QUICK_SHARES if lines.setting.quick else SHARES):
        measured = _measured(watch, calibrated, plan, feeds)
        data["plans"].append({**about, "factored": len(plan.factored), **measured})
        print(f"{entry.name}, {threads} threads: {data['plans'][-1]}", flush=True)
    return data


def _calibrated(entry: Entry, loaded: LoadedModel, inventory: Inventory, options: Options) -> Calibrated:
    whole = read(entry.calibration.path, loaded.runner.inputs)
    picks = np.unique(np.linspace(0, len(whole) - 1, min(len(whole), SAMPLES)).round().astype(int))
    return calibrate(loaded, whole.subset([int(i) for i in picks]), inventory, options, Silent(), "relative-l2")


def plans_of(timed: Timed, inventory: Inventory, shares: tuple[float, ...]) -> list[tuple[Plan, dict[str, Any]]]:
    """Return plans of least summed error and what they are, with their predicted share of the original's time."""
    names = {site.id: site.weight for site in inventory.sites}
    made = []
    for resource in RESOURCES:
        problem = Problem(timed.curves, names, resource)
        for share in shares:
            plan = problem.best(max(share * problem.dense, problem.smallest), "", lambda option: option.error)
            if plan is not None and plan.factored:
                dense = sum(curve.dense.cost.milliseconds for curve in timed.curves)
                predicted = 1 + (plan.cost.milliseconds - dense) / timed.original
                made.append((plan, {"resource": resource, "share": share, "predicted": predicted}))
    return made


def _measured(watch: Stopwatch, calibrated: Calibrated, plan: Plan, feeds: list[Feed]) -> dict[str, Any]:
    model = rewrite(watch.model, watch.inventory, replace(plan, origin=""), calibrated.decomposed.factors)
    runner = Runner(model, runtime=watch.options.runtime, spin=True)
    timing = interleaved(watch.original, runner, feeds, seed=watch.options.seed, seconds=SECONDS)
    return {
        "measured": triple(timing.ratio),
        "milliseconds": [timing.first_ms, timing.second_ms],
        "pairs": timing.pairs,
    }
