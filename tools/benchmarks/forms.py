"""Part "forms": pairs against interpolative factors of the same weights and samples, by loss, size and time.

A size is a share of the whole file's parameters. Both take the plan of least predicted loss on one collection, the one
with curves whose factors store their identity blocks, the other without. Loss is the divergence from the original's
outputs on validation samples, sample by sample on the same ones, so the difference is a paired one. Time is in turns
with the original.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.wording import number, percent, table, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import MODELS

KEEPS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2)
FORMS = ("pairs", "interpolative")
MOST = 512
"""Validation samples that the loss is measured on, at most."""
SECONDS = 1.5
SOME = 1 / 3
"""Chains of fewer MACs than this share of the node's are dominated by what a call costs."""


def cells(model: str, quick: bool) -> list[Cell]:
    """Return a cell a size, and one for single weights."""
    sizes = [Cell(f"{keep:g}", partial(_size, keep=keep)) for keep in (KEEPS[3:4] if quick else KEEPS)]
    return [*sizes, Cell("weights", _weights)]


def _problem(bench: Workbench, form: str) -> Any:
    """Return the choice of ranks in one form: all that was scored of every scheme, at what it costs in that form."""
    session = bench.collected()
    calibrated = session.state.calibrated
    inventory = session.inventory if form != "pairs" else wb.plain_inventory(session.inventory)
    curves = wb.joint_curves(inventory, calibrated.observed, calibrated.joint).decomposed.curves
    saving = [
        replace(c, options=(c.dense, *(o for o in c.options[1:] if o.cost.parameters < c.dense.cost.parameters)))
        for c in curves
    ]
    return wb.problem_of(session, saving)


def _size(bench: Workbench, keep: float) -> Line:
    session = bench.collected()
    whole, dense = session.inventory.parameters, wb.factorable(session)
    data: dict[str, Any] = {"keep": keep}
    losses, samples = {}, wb.some(bench.samples(bench.entry.validation), MOST)
    for form in FORMS:
        problem = bench.once(_problem, form)
        plan = wb.least_loss(problem, keep * whole - (whole - dense), form)
        if plan is None:
            data[form] = None
            continue
        model = bench.rewritten(session, plan)
        losses[form] = bench.divergences(model, samples, f"validation, {MOST}")
        macs = session.state.calibrated.observed.macs
        saved = problem.plan([0] * len(problem.curves), "dense").cost.macs - plan.cost.macs
        data[form] = {
            "kept": wb.kept_of(session, plan),
            "factored": len(plan.factored),
            "predicted": plan.loss,
            "loss": wb.triple(wb.single_interval(losses[form], wb.LEVEL)),
            "macs": 1 - saved / macs,
            "latency": {threads: bench.timed(model, threads=threads, seconds=SECONDS)["latency"] for threads in (1, 2)},
        }
    if len(losses) == len(FORMS):
        data["difference"] = wb.triple(wb.single_interval(losses["interpolative"] - losses["pairs"], wb.LEVEL))
    return {**data, "n": len(samples), "unit": bench.objective.unit}


def _weights(bench: Workbench) -> Line:
    """Return, of single weights at ranks between a third and all of their MACs, time over what MACs promise."""
    runtime = replace(bench.options.runtime, threads=1)
    session = bench.collected()
    session = replace(session, options=replace(session.options, runtime=runtime))
    data: Line = {}
    for form in FORMS:
        timed = wb.timed_forms(session, plain=form == "pairs")
        ratios = [time / macs for macs, time in timed if SOME < macs < 1]
        if ratios:
            data[form] = {"median": float(np.median(ratios)), "n": len(ratios)}
    return data


def _section(model: str, cells: Cells) -> list[str]:
    rows = [_row(keep, data) for keep in KEEPS if (data := cells.get(f"{keep:g}")) is not None]
    if not rows:
        return []
    data = next(data for name, data in cells.items() if name != "weights")
    heads = (
        "kept",
        "pairs: loss",
        "interpolative: loss",
        "difference (paired)",
        "predicted",
        "MACs",
        "time, 1 and 2 threads",
    )
    text = [f"Loss in {data['unit']}, {data['n']} validation samples.", "", *table(heads, rows)]
    if (weights := cells.get("weights")) is not None:
        said = [f"{form} {number(each['median'])} ({each['n']} weights and ranks)" for form, each in weights.items()]
        text += [f"Time of single weights over what their MACs promise, median, one thread: {', '.join(said)}.", ""]
    return text


def _row(keep: float, data: Line) -> tuple[str, ...]:
    made = [data[form] for form in FORMS]

    def both(say: Any) -> str:
        return " → ".join("–" if each is None else say(each) for each in made)

    return (
        percent(keep, 0),
        *("–" if each is None else with_interval(each["loss"]) for each in made),
        with_interval(data["difference"]) if "difference" in data else "–",
        both(lambda each: number(each["predicted"])),
        both(lambda each: number(each["macs"])),
        "; ".join(both(lambda each, threads=threads: number(each["latency"][threads][0])) for threads in ("1", "2")),
    )


PART = Part("forms", "Pairs and interpolative factors", cells, sections("forms", _section), MODELS, costly=True)
