"""Part "latency": the predicted time of a whole model against the measured one, for plans of several sizes.

Times depend on shapes and ranks, not on which numbers the factors hold: plain SVD of a few samples' worth of statistics
gives the plans, half of them by a share of the factorable parameters, half by a share of the factorable weights' time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.wording import number, percent, table, threads_text, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import TASKS
from onnx_lowrank import Runtime

THREADS = {f"plans, {threads} threads": threads for threads in (1, 2)}
SHARES, QUICK_SHARES = (0.9, 0.7, 0.5, 0.3), (0.7, 0.4)
RESOURCES = {"parameters": "parameters", "latency": "time"}
SAMPLES, SECONDS = 32, 10.0


def _measure(bench: Workbench, threads: int) -> Line:
    session = bench.collected(most=SAMPLES, sensitivity="weights", runtime=Runtime(threads=threads, provider="cpu"))
    start = time.perf_counter()
    priced = session.priced("latency", session.state)
    seconds, timed, original = time.perf_counter() - start, priced.problem, priced.milliseconds
    dense = sum(curve.dense.cost.milliseconds for curve in timed.curves)
    data = {
        "seconds": seconds, "groups": len(session.stopwatch(session.state).groups),
        "sites": len(session.inventory.sites),
        "original_ms": original, "share": dense / original, "plans": [],
    }  # fmt: skip
    for resource in RESOURCES:
        problem = replace(timed, resource=resource)
        for share in QUICK_SHARES if bench.quick else SHARES:
            plan = problem.best(max(share * problem.dense, problem.smallest), "", lambda option: option.error)
            if plan is None or not plan.factored:
                continue
            about = {"resource": resource, "share": share, "factored": len(plan.factored)}
            about["predicted"] = 1 + (plan.cost.milliseconds - dense) / original
            ratio = bench.timed(bench.rewritten(session, plan), threads=threads, seconds=SECONDS)
            data["plans"].append({**about, "measured": ratio.pop("latency"), **ratio})
    return data


def _section(model: str, cells: Cells) -> list[str]:
    text: list[str] = []
    heads = (
        "plan: share of the factorable",
        "weights factored",
        "predicted time",
        "measured, of the original's",
        "error",
    )
    for name, threads in THREADS.items():
        data = cells.get(name)
        if data is None or not data["plans"]:
            continue
        text += [
            f"{threads_text(threads).capitalize()}: {data['groups']} measurements for {data['sites']} weights took"
            f" {data['seconds']:.0f} s; the weights take {percent(data['share'], 0)} of the original's"
            f" {data['original_ms']:.3g} ms.",
            "",
            *table(heads, [_row(plan) for plan in data["plans"]]),
        ]
    return text


def _row(plan: Line) -> tuple[str, ...]:
    error = f"{100 * (plan['predicted'] / plan['measured'][0] - 1):+.1f} %".replace("-", "−")
    kind = f"{percent(plan['share'], 0)} of {RESOURCES[plan['resource']]}"
    return kind, str(plan["factored"]), number(plan["predicted"]), with_interval(plan["measured"]), error


PART = Part(
    "latency", "Predicted and measured time",
    lambda model, quick: [Cell(name, partial(_measure, threads=threads)) for name, threads in THREADS.items()],
    sections("latency", _section), TASKS,
)  # fmt: skip
