"""Parts "cost" and "pareto": what collecting costs against a plain forward, and what the whole curve costs from it."""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import workbench as wb
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Line
from benchmarks.parts import Cell, Part, one_table
from benchmarks.peak import UNIT
from benchmarks.process import watched
from benchmarks.wording import NONE
from benchmarks.workbench import Workbench
from benchmarks.zoo import TASKS
from onnx_lowrank import Compact, DataSources, Gate, Options, Runtime, Session, pareto, read

REPEATS = 3
MEASURING = "measuring the curve"
"""The step of the session's clock in which plans meet the validation samples."""
ABOUT = (
    f"A forward is one run over all calibration samples; the ratio is the median of {REPEATS} pairs in turns. Memory:"
    " the largest resident set of a process that collects once."
)
ABOUT_CURVE = (
    "`--pareto`, in the seconds that each stage takes once. *Collection*: everything up to the curves of the weights."
    " *Whole curve*: plans for every budget, and the measured ones on all validation samples; the original's own run"
    " stands apart. A further point costs what its plan does and, if it is to be measured, a session and a run over"
    " the validation samples. Nothing is collected again."
)


def _collection(bench: Workbench) -> Line:
    """Measure in a process of its own, whose memory is that of a collection alone."""
    answer, entry = bench.runs / f"{bench.entry.name}-cost.json", bench.entry
    answer.unlink(missing_ok=True)
    given = (entry.model, entry.calibration.path, 1 if bench.quick else REPEATS, bench.options.runtime.threads, answer)
    used = watched(["-m", "benchmarks.cost", *map(str, given)])
    if not answer.is_file():
        raise wb.WorkbenchError(f"the run ended with {used['exit']}: {used['last']}")
    return {**json.loads(answer.read_text(encoding="utf-8")), "model_bytes": entry.model.stat().st_size}


def passes_of(session: Session) -> Any:
    """Return the two passes of the joint collection, ready to run (`wb.joint_scores`, `passes`)."""
    loaded, samples, options = session.loaded, session.split.calibration, session.options
    objective = wb.objective_of(loaded, samples, options, wb.kind_of(loaded, session.metric(wb.ANY)[0], samples))
    return wb.collection_setup(wb.calibration_setup(loaded, samples, session.inventory, options, objective), "joint")


def main(model: str, data: str, repeats: str, threads: str, answer: str) -> None:
    session = Session.of(model, DataSources(data=Path(data)), Options(runtime=Runtime(threads=int(threads))))
    whole = replace(session.split, calibration=read(Path(data), session.loaded.runner.inputs))
    session = session.renewed(split=whole)
    collection, feeds = passes_of(session), session.split.calibration.feeds
    batch = wb.batch_size(session.loaded.runner, feeds)
    forwards, collections, peaks = [], [], []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        for run in wb.batches(feeds, batch):
            session.loaded.runner.run(wb.join(run))
        forwards.append(time.perf_counter() - start)
        start = time.perf_counter()
        wb.joint_scores(collection)
        collections.append(time.perf_counter() - start)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT)
    ratios = [one / other for one, other in zip(collections, forwards, strict=True)]
    found = {
        "ratio": median(ratios), "ratios": ratios, "forward": median(forwards), "collection": median(collections),
        "samples": len(feeds), "sites": len(session.inventory.sites), "passes": collection.passes,
        "peak_bytes": peaks[0],  # as in a process that collects once; later ones start from what is left over
        "peaks": peaks,
    }  # fmt: skip
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def _curve(bench: Workbench) -> Line:
    """Return the seconds of each stage; each is run once, in the order in which a user waits for it."""
    session, goal, times = bench.opened(), Compact(gate=Gate(max_drop=MAX_DROP, observed=True)), [time.perf_counter()]
    session.collect(session.metric(goal.gate)[0])
    times.append(time.perf_counter())
    session.judge(goal.gate)[0].original()
    times.append(time.perf_counter())
    plans = wb.curve_plans(session.problem(goal.resource))
    times.append(time.perf_counter())
    points = pareto(session, goal)
    times.append(time.perf_counter())
    collection, original, planning, curve = (late - early for early, late in pairwise(times))
    measured = sum(point.value is not None for point in points)
    return {
        "collection": collection, "original": original, "curve": curve, "points": len(points), "measured": measured,
        "a_measured": session.clock.seconds[MEASURING] / measured if measured else None,
        "an_unmeasured": planning / max(len(plans), 1), "calibration": len(session.split.calibration),
        "validation": len(session.split.validation), "sites": len(session.inventory.sites),
    }  # fmt: skip


def _cost_row(data: Line) -> str:
    sizes = " | ".join(f"{data[what] / 1e6:,.0f}" for what in ("peak_bytes", "model_bytes"))
    return "{samples} | {sites} | {forward:.1f} | {collection:.1f} | {ratio:.1f} | ".format(**data) + sizes


def _curve_row(data: Line) -> str:
    further = f"{data['a_measured']:.2f}" if data["a_measured"] else NONE
    stages = "{sites} | {calibration}, {validation} | {collection:.1f} | {original:.1f} | {curve:.1f}".format(**data)
    return f"{stages} | {data['points']} | {data['measured']} | {further} | {1000 * data['an_unmeasured']:.1f}"


COST_HEADS = "samples | weights | forward, s | collection, s | ratio | peak, MB | model, MB"
CURVE_HEADS = (
    "weights | samples: calibration, validation | collection, s | original, s | whole curve, s | points |"
    " of them measured | a further measured point, s | a further unmeasured point, ms"
)
PARTS = (
    Part(
        "cost", "What collecting costs", lambda model, quick: [Cell("collection", _collection)],
        one_table("cost", ABOUT, COST_HEADS, _cost_row), TASKS,
    ),
    Part(
        "pareto", "What the whole curve costs", lambda model, quick: [Cell("curve", _curve)],
        one_table("pareto", ABOUT_CURVE, CURVE_HEADS, _curve_row), TASKS,
    ),
)  # fmt: skip

if __name__ == "__main__":
    main(*sys.argv[1:])
