"""Part "tolerance": how far outputs move, as a relative error, while the task metric and the decisions still hold.

What the default of `relative-l2`, TOLERANCE, rests on: plans along a model's curve, each judged on validation samples
by the recipe's metric and by relative-l2. The shipped model is measured whatever the zoo holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from benchmarks.lines import Line, Lines, Setting
from benchmarks.zoo import Entry
from onnx_lowrank import DataSources, Gate, Options, Session
from onnx_lowrank.demo import MODEL, demo_samples
from onnx_lowrank.metrics import RelativeL2
from onnx_lowrank.options import TOLERANCE, Runtime
from onnx_lowrank.pipeline.loaded_model import make_judge
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.plan.allocate import curve_plans
from onnx_lowrank.results.parts import Size
from onnx_lowrank.runtime.runner import Runner

PART, DEMO = "tolerance", "demo"
GATE = Gate(max_drop=1.0, observed=True)
CALIBRATED, JUDGED, GLANCED = 256, 1000, 32
"""Samples, at most: to collect on, to judge plans on, and to find plans that are worth it."""
FROM, UNTIL = 0.008, 0.25
"""Relative errors between which plans are judged, next to each other by a factor of STEP at least."""
STEP = 1.5
FIELDS = ("relative-l2", "drop", "low", "high", "agreement", "kept")


def measure(entry: Entry, lines: Lines) -> None:
    """Judge a zoo model's plans, if that has not been done. Raises LowRankError."""
    sources = DataSources(data=entry.calibration.path, validation=entry.validation.path)
    _measure(entry.name, entry.sha256, entry.model, sources, entry.metric, lines)


def measure_demo(lines: Lines) -> None:
    """Judge the shipped model's."""
    sets = demo_samples()
    sources = DataSources(data=sets["calibration"], validation=sets["validation"])
    _measure(DEMO, hashlib.sha256(MODEL.read_bytes()).hexdigest(), MODEL, sources, "top1", lines)


def _measure(name: str, sha256: str, model: Any, sources: DataSources, metric: str, lines: Lines) -> None:
    if lines.has(PART, name, "curve", sha256):
        return
    options = Options(
        seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads), metric=metric, sensitivity="inputs"
    )
    session = Session.of(model, sources, options)
    split = session.split
    session.split = type(split)(
        split.calibration.subset(range(min(len(split.calibration), CALIBRATED))),
        split.validation.subset(range(min(len(split.validation), 100 if lines.setting.quick else JUDGED))),
    )
    points = list(_points(session))
    data = {"metric": session.metric(GATE)[0].name, "n": len(session.split.validation), "points": points}
    lines.add(PART, name, "curve", sha256, data)
    print(f"{name}: {len(points)} plans judged", flush=True)


def _points(session: Session) -> Iterator[dict[str, float | None]]:
    """Yield plans by rising relative error, each with what the task metric lost."""
    metric, _ = session.metric(GATE)
    state = session.collect(metric)
    problem = session.problem("parameters")
    size = Size(session.inventory.parameters, session.loaded.bytes)
    search = Search(session, state, problem, session.judge(GATE)[0], None, size)
    validation = session.split.validation
    few = validation.subset(range(min(len(validation), GLANCED)))
    preview, apart = (make_judge(session.loaded, s, RelativeL2(), GATE, session.options) for s in (few, validation))
    last = FROM / STEP
    for plan in curve_plans(problem):
        runner = Runner(search.factored(plan), runtime=Runtime(threads=session.options.threads))
        if preview.judge(runner).drop.estimate < last * STEP:
            continue
        error = apart.judge(runner).drop.estimate
        verdict = search.judge.judge(runner)
        drop, last = verdict.drop, error
        agreed = None if verdict.agreement is None else verdict.agreement.estimate
        kept = search.size(plan, 0).parameters / size.parameters
        yield dict(zip(FIELDS, (error, drop.estimate, drop.low, drop.high, agreed, kept), strict=True))
        if error > UNTIL:
            return


def page(lines: list[Line], setting: Setting) -> str:
    """Return the page, empty without lines: what the task metric lost at about each relative error."""
    lines = [line for line in lines if line["part"] == PART]
    if not lines:
        return ""
    found = {line["model"]: line["data"] for line in lines}
    ends = (TOLERANCE / 5, TOLERANCE / 2, TOLERANCE, 2 * TOLERANCE, 4 * TOLERANCE)
    head = [
        "# Relative error of the outputs beside what the task metric loses",
        "",
        "Written by `tools/bench.py --part tolerance`: plans along the curve of `--sensitivity inputs`, judged on"
        " validation samples. A cell: the drop of the task's metric with its 95 % interval, and the share of decisions"
        " that changed, at the"
        " plan of the largest mean relative error (‖y − y₀‖ / ‖y₀‖) up to that of the column.",
        "",
        "| model | metric | n | " + " | ".join(f"≤ {end:g}" for end in ends) + " |",
        "|---" * (3 + len(ends)) + "|",
    ]
    for name, data in found.items():
        cells = [_cell([p for p in data["points"] if p["relative-l2"] <= end]) for end in ends]
        metric = data["metric"].rpartition(":")[2]
        head.append(f"| {name} | {metric} | {data['n']:,} | " + " | ".join(cells) + " |")
    versions = ", ".join(f"{key} {value}" for key, value in lines[0]["machine"].items())
    states = ", ".join(sorted({line["source"] for line in lines}))
    return "\n".join([*head, "", f"Seed {setting.seed}; source {states}; {versions}.", ""])


def _cell(points: list[dict[str, float]]) -> str:
    if not points:
        return "–"
    point = points[-1]
    agreed = point["agreement"]
    changed = "" if agreed is None else f"; {100 * (1 - agreed):.1f} %"
    drop = f"{point['drop']:.4f} [{point['low']:.4f}, {point['high']:.4f}]"
    return f"{drop}{changed} (at {point['relative-l2']:.3f})".replace("-", "−")
