"""Part "tolerance": how far outputs move, as a relative error, while the task metric and the decisions still hold.

What the default of `relative-l2`, TOLERANCE, rests on: plans along a model's curve, each judged on validation samples
by the recipe's metric and by relative-l2. The shipped model is measured whatever the zoo holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks import workbench as wb
from benchmarks.lines import Line, Setting, cells_of
from benchmarks.parts import Cell, Part
from benchmarks.workbench import ANY, DEMO_MODEL, TOLERANCE, Workbench
from benchmarks.zoo import MODELS, Entry, file_hash, stand_in
from onnx_lowrank import DataSources, Session

DEMO = "demo"
CALIBRATED, JUDGED, GLANCED = 256, 1000, 32
"""Samples, at most: to collect on, to judge plans on, and to find plans that are worth it."""
FROM, UNTIL, STEP = 0.008, 0.25, 1.5
"""Relative errors between which plans are judged, next to each other by a factor of STEP at least."""
FIELDS = ("relative-l2", "drop", "low", "high", "agreement", "kept")


def entry() -> Entry:
    return stand_in(DEMO, file_hash(DEMO_MODEL), DEMO_MODEL)


def _measure(bench: Workbench) -> Line:
    sets = wb.demo_samples() if bench.entry.name == DEMO else None
    samples = DataSources(data=sets["calibration"], validation=sets["validation"]) if sets else None
    session = bench.opened(samples=samples, sensitivity="inputs")
    few, judged = session.split.calibration, session.split.validation
    few, judged = (s.subset(range(min(len(s), most))) for s, most in ((few, CALIBRATED), (judged, JUDGED)))
    session.split = replace(session.split, calibration=few, validation=judged, screening=None)
    points = list(_points(bench, session))
    return {"metric": session.metric(ANY)[0].name, "n": len(judged), "points": points}


def _points(bench: Workbench, session: Session) -> Iterator[dict[str, float | None]]:
    """Yield plans by rising relative error, each with what the task metric lost."""
    session.collect(session.metric(ANY)[0])
    judge, validation, last = session.judge(ANY)[0], session.split.validation, FROM / STEP
    few = validation.subset(range(min(len(validation), GLANCED)))
    preview, apart = (
        wb.make_judge(session.loaded, s, wb.RelativeL2(), ANY, session.options) for s in (few, validation)
    )
    for plan in wb.curve_plans(session.problem("parameters")):
        runner = bench.runner(bench.rewritten(session, plan))
        if preview.judge(runner).drop.estimate < last * STEP:
            continue
        error, verdict = apart.judge(runner).drop.estimate, judge.judge(runner)
        drop, last = verdict.drop, error
        agreed = None if verdict.agreement is None else verdict.agreement.estimate
        values = (error, drop.estimate, drop.low, drop.high, agreed, wb.kept_of(session, plan))
        yield dict(zip(FIELDS, values, strict=True))
        if error > UNTIL:
            return


def _body(lines: Sequence[Line], setting: Setting) -> list[str]:
    """Return what the task metric lost at about each relative error."""
    models, mine = cells_of(lines, "tolerance"), [line for line in lines if line["part"] == "tolerance"]
    ends = (TOLERANCE / 5, TOLERANCE / 2, TOLERANCE, 2 * TOLERANCE, 4 * TOLERANCE)
    text = [
        "# Relative error of the outputs beside what the task metric loses",
        "",
        "Written by `tools/bench.py --part tolerance`: plans along the curve of `--sensitivity inputs`, judged on"
        " validation samples. A cell: the drop of the task's metric with its 95 % interval, and the share of decisions"
        " that changed, at the plan of the largest mean relative error (‖y − y₀‖ / ‖y₀‖) up to that of the column.",
        "",
        f"| model | metric | n | {' | '.join(f'≤ {end:g}' for end in ends)} |",
        "|---" * (3 + len(ends)) + "|",
    ]
    for name, data in ((name, cells["curve"]) for name, cells in models.items()):
        row = [_cell([p for p in data["points"] if p["relative-l2"] <= end]) for end in ends]
        text.append(f"| {name} | {data['metric'].rpartition(':')[2]} | {data['n']:,} | {' | '.join(row)} |")
    versions = ", ".join(f"{key} {value}" for key, value in mine[0]["machine"].items())
    states = ", ".join(sorted({line["source"] for line in mine}))
    return [*text, "", f"Seed {setting.seed}; source {states}; {versions}.", ""]


def _cell(points: Sequence[Any]) -> str:
    if not points:
        return "–"
    point = points[-1]
    changed = "" if point["agreement"] is None else f"; {100 * (1 - point['agreement']):.1f} %"
    drop = f"{point['drop']:.4f} [{point['low']:.4f}, {point['high']:.4f}]"
    return f"{drop}{changed} (at {point['relative-l2']:.3f})".replace("-", "−")


PART = Part(
    "tolerance", "", lambda model, quick: [Cell("curve", _measure)], _body, MODELS, own={DEMO: entry}, whole=True
)
