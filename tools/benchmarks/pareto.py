"""Part "pareto": what the curve of size against loss costs, from one collection, and what a further point does."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from benchmarks.goals import MAX_DROP
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank import Compact, DataSources, Gate, Options, Session, pareto
from onnx_lowrank.options import Runtime
from onnx_lowrank.plan.allocate import curve_plans

PART = "pareto"
CELL = "curve"
QUICK_SAMPLES = 16
MEASURING = "measuring the curve"
"""The step of the study's clock in which plans meet the validation samples."""


def measure(entry: Entry, lines: Lines) -> None:
    """Time a model's curve, if that has not been done. Raises LowRankError."""
    if lines.has(PART, entry.name, CELL, entry.sha256):
        return
    options = Options(seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads), metric=entry.metric)
    sources = DataSources(data=entry.calibration.path, validation=entry.validation.path)
    session = Session.of(entry.model, sources, options)
    if lines.setting.quick:
        few = session.split.validation.subset(range(min(len(session.split.validation), QUICK_SAMPLES)))
        session.split = replace(session.split, validation=few)
    data = timed(session, Compact(gate=Gate(max_drop=MAX_DROP, observed=True)))
    lines.add(PART, entry.name, CELL, entry.sha256, data)
    print(f"{entry.name}: {data['points']} points, {data['measured']} of them measured", flush=True)


def timed(session: Session, goal: Compact) -> dict[str, Any]:
    """Return the seconds of each stage; each is run once, in the order in which a user waits for it."""
    start = time.perf_counter()
    session.collect(session.metric(goal.gate)[0])
    collected = time.perf_counter()
    session.judge(goal.gate)[0].original()
    judged = time.perf_counter()
    plans = curve_plans(session.problem(goal.resource))
    planned = time.perf_counter()
    points = pareto(session, goal)
    done = time.perf_counter()
    measured = sum(point.value is not None for point in points)
    return {
        "collection": collected - start,
        "original": judged - collected,
        "curve": done - planned,
        "points": len(points),
        "measured": measured,
        "a_measured": session.clock.seconds[MEASURING] / measured if measured else None,
        "an_unmeasured": (planned - judged) / max(len(plans), 1),
        "calibration": len(session.split.calibration),
        "validation": len(session.split.validation),
        "sites": len(session.inventory.sites),
    }
