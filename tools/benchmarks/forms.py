"""Part "forms": pairs against interpolative factors of the same weights and samples, by loss, size and time.

A size is a share of the whole file's parameters. Both take the plan that `--algorithm lossless` takes at that size,
from one collection: the one with curves whose factors store their identity blocks, the other without. Loss is the
divergence from the original's outputs on validation samples, sample by sample on the same ones, so the difference is a
paired one; nothing is chosen by them. Time is in turns with the original.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.wording import number, percent, significant, table
from benchmarks.workbench import Workbench
from benchmarks.zoo import MODELS

KEEPS = (0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2)
FORMS = ("pairs", "interpolative")
MOST = 256
"""Validation samples that the loss is measured on, at most."""
THREADS = ("1", "2")
SECONDS = 1.0
GRIDS = ("minilm", "vit", "ppocr")
"""Models that are collected for every rank, to say what the grid of ranks costs."""
SOME = 1 / 3
"""Chains of fewer MACs than this share of the node's are dominated by what a call costs."""


def cells(model: str, quick: bool) -> list[Cell]:
    """Return a cell a size, and one for single weights."""
    sizes = [Cell(f"{keep:g}", partial(_size, keep=keep)) for keep in (KEEPS[3:4] if quick else KEEPS)]
    grid = [Cell("grid", _grid)] if model in GRIDS else []
    return [*sizes, Cell("weights", _weights), *grid]


def _session(bench: Workbench, form: str) -> Any:
    """Return a session in which factors take one form: all that was scored of every scheme, at what it costs in it."""
    whole = bench.once(wb.collected_to_plan)
    return whole if form != "pairs" else bench.once(_plain)


def _plain(bench: Workbench) -> Any:
    return wb.plain_session(bench.once(wb.collected_to_plan))


def _size(bench: Workbench, keep: float) -> Line:
    data: dict[str, Any] = {"keep": keep}
    losses, samples = {}, wb.some(bench.samples(bench.entry.validation), MOST)
    for form in FORMS:
        session = _session(bench, form)
        whole, dense = session.inventory.parameters, wb.factorable(session)
        plan = wb.planned(session, (keep * whole - (whole - dense)) / dense)
        if plan is None:
            data[form] = None
            continue
        model = bench.rewritten(session, plan)
        losses[form] = bench.divergences(model, samples, f"validation, {MOST}")
        costs = sum((curve.dense.cost for curve in session.state.curves), wb.Cost())
        data[form] = {
            "kept": wb.kept_of(session, plan),
            "factored": len(plan.factored),
            "predicted": session.state.expected(plan.loss),
            "loss": wb.triple(wb.single_interval(losses[form], wb.LEVEL)),
            "macs": 1 - (costs - plan.cost).macs / session.state.calibrated.observed.macs,
            "latency": {t: bench.timed(model, threads=int(t), seconds=SECONDS)["latency"] for t in THREADS},
        }
    if len(losses) == len(FORMS):
        data["difference"] = wb.triple(wb.single_interval(losses["interpolative"] - losses["pairs"], wb.LEVEL))
    return {**data, "n": len(samples), "unit": bench.objective.unit}


def _weights(bench: Workbench) -> Line:
    """Return, of single weights at ranks between a third and all of their MACs, time over what MACs promise."""
    session = bench.once(wb.collected_to_plan)
    session = replace(session, options=replace(session.options, runtime=replace(bench.options.runtime, threads=1)))
    data: Line = {}
    for form in FORMS:
        timed = wb.timed_forms(session, plain=form == "pairs")
        ratios = [time / macs for macs, time in timed if SOME < macs < 1]
        if ratios:
            data[form] = {"median": float(np.median(ratios)), "n": len(ratios)}
    return data


def _grid(bench: Workbench) -> Line:
    """Return the predicted loss at every size by all ranks, by multiples, and by so many of these."""
    with wb.every_rank():
        session = bench.collected(rank_multiple=1, shared_input=False)
    whole, dense = session.inventory.parameters, wb.factorable(session)
    curves = session.state.calibrated.decomposed.curves
    data: Line = {}
    for name, kept in GRID.items():
        problem = wb.problem_of(session, [kept(curve) for curve in curves])
        plans = [wb.least_loss(problem, keep * whole - (whole - dense), "") for keep in KEEPS]
        data[name] = {
            "options": sum(len(curve.options) for curve in problem.curves),
            "losses": [None if plan is None else plan.loss for plan in plans],
        }
    return data


def _multiples(curve: Any, multiple: int, most: int) -> Any:
    """Return a curve with ranks that are multiples, and at most so many of a scheme with one rank, evenly spaced."""
    options = [o for o in curve.options[1:] if all(rank % multiple == 0 for rank in o.ranks)]
    by_scheme: dict[str, list[Any]] = {}
    for option in sorted(options, key=lambda o: o.ranks):
        by_scheme.setdefault(option.scheme, []).append(option)
    chosen = [o for scheme in by_scheme.values() for o in _thinned(scheme, most)]
    return replace(curve, options=(curve.dense, *chosen))


def _thinned(options: list[Any], most: int) -> list[Any]:
    if len(options[0].ranks) > 1 or len(options) <= most:
        return options
    return [options[round(place)] for place in np.linspace(0, len(options) - 1, most)]


GRID = {
    "all": lambda curve: curve,
    "multiples of 8": partial(_multiples, multiple=8, most=10**9),
    **{f"{most} multiples of 8": partial(_multiples, multiple=8, most=most) for most in (64, 32, 16)},
    "64 of all": partial(_multiples, multiple=1, most=64),
}


def _section(model: str, cells: Cells) -> list[str]:
    rows = [_row(keep, data) for keep in KEEPS if (data := cells.get(f"{keep:g}")) is not None]
    if not rows:
        return []
    data = next(data for name, data in cells.items() if "n" in data)
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
    if (grid := cells.get("grid")) is not None:
        rows = [(name, str(each["options"]), *map(_loss, each["losses"])) for name, each in grid.items()]
        text += ["Predicted loss by which ranks are on offer:", ""]
        text += table(("ranks", "options", *(percent(keep, 0) for keep in KEEPS)), rows)
    return text


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _row(keep: float, data: Line) -> tuple[str, ...]:
    made = [data[form] for form in FORMS]

    def both(say: Any) -> str:
        return " → ".join("–" if each is None else say(each) for each in made)

    return (
        percent(keep, 0),
        *("–" if each is None else significant(each["loss"]) for each in made),
        significant(data["difference"]) if "difference" in data else "–",
        both(lambda each: f"{each['predicted']:.3g}"),
        both(lambda each: number(each["macs"])),
        "; ".join(both(lambda each, threads=threads: number(each["latency"][threads][0])) for threads in THREADS),
    )


PART = Part("forms", "Pairs and interpolative factors", cells, sections("forms", _section), MODELS, costly=True)
