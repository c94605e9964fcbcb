"""Part "shelved": switches that did not pay once, again: a shared first factor, refit on more samples, the signed term.

A size is a share of the whole file's parameters; each switch against the default at the same size, in pairs on test
samples. The signed term is for labels: classifiers collect on calibration and validation samples together (10,000
labels of the image networks), and top-1 and the labelled loss on the test set decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.scores import Scores, compared
from benchmarks.wording import percent, significant, table, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import CLASSIFIERS, MODELS

KEEPS = (0.8, 0.6, 0.4)
MOST = 512
"""Test samples that the divergence is measured on, at most."""
SWITCHES = ("no shared input", "refit, 64", "refit, 512")


def cells(model: str, quick: bool) -> list[Cell]:
    """Return a cell a size for the switches without labels, and one for the signed term of classifiers."""
    sizes = [Cell(f"{keep:g}", partial(_size, keep=keep)) for keep in (KEEPS[1:2] if quick else KEEPS)]
    signed = [Cell("signed", partial(_signed, keeps=KEEPS[1:2] if quick else KEEPS))] if model in CLASSIFIERS else []
    return sizes + signed


@contextmanager
def _refitted_on(count: int) -> Iterator[None]:
    """Let the refit have so many samples."""
    before, wb.refit.REFITTED = wb.refit.REFITTED, count
    try:
        yield
    finally:
        wb.refit.REFITTED = before


def _plan(session: Any, keep: float) -> Any:
    whole, dense = session.inventory.parameters, wb.factorable(session)
    return wb.least_loss(session.problem("parameters"), keep * whole - (whole - dense), "")


def _models(bench: Workbench, keep: float) -> Iterator[tuple[str, Any]]:
    """Yield the default's model of a size, then that of every switch; None where there is none."""
    session = bench.collected()
    plan = _plan(session, keep)
    yield "default", None if plan is None else bench.rewritten(session, plan)
    alone = bench.collected(shared_input=False) if session.inventory.shared_inputs else session
    other = _plan(alone, keep) if session.inventory.shared_inputs else None
    yield SWITCHES[0], None if other is None else bench.rewritten(alone, other)
    for name, count in zip(SWITCHES[1:], (64, 512), strict=True):
        if plan is None:
            yield name, None
            continue
        refitting = bench.collected(refit=True)
        with _refitted_on(count):
            factors = refitting.renewed().factors(plan, refitting.state)
        yield name, bench.rewritten(session, plan, factors)


def _size(bench: Workbench, keep: float) -> Line:
    test = bench.entry.tests[0]
    samples = wb.some(bench.samples(test), MOST)
    losses: dict[str, Any] = {}
    for name, model in _models(bench, keep):
        if model is not None:
            losses[name] = bench.divergences(model, samples, f"{test.name}, {MOST}")
    default = losses.pop("default", None)
    data: Line = {"n": len(samples), "unit": bench.objective.unit}
    if default is None:
        return data
    data["default"] = wb.triple(wb.single_interval(default, wb.LEVEL))
    changes = {name: wb.triple(wb.single_interval(values - default, wb.LEVEL)) for name, values in losses.items()}
    return {**data, "changes": changes}


def _signed(bench: Workbench, keeps: tuple[float, ...]) -> Line:
    """Return top-1 and labelled loss with the signed term against those without, collected on all labels."""
    entry, test = bench.entry, bench.samples(bench.entry.tests[0])
    labelled = wb.joined(bench.samples(entry.calibration), bench.samples(entry.validation))
    data: Line = {"labels": len(labelled), "sizes": {}}
    base = bench.session
    split = replace(base.split, calibration=labelled, screening=None)
    made = {}
    for signed in (False, True):
        session = base.renewed(options=replace(bench.options, signed=signed), split=split)
        session.collect(session.metric(wb.ANY)[0])
        for keep in keeps:
            plan = _plan(session, keep)
            made[keep, signed] = None if plan is None else (plan, bench.rewritten(session, plan))
    for keep in keeps:
        if made[keep, False] is None or made[keep, True] is None:
            continue
        plans, models = zip(*(made[keep, signed] for signed in (False, True)), strict=True)
        one, other = (Scores.of(bench.runner(model), test) for model in models)
        data["sizes"][f"{keep:g}"] = {"same": plans[0].choices == plans[1].choices, **compared(one, other)}
    return data


def _section(model: str, cells: Cells) -> list[str]:
    sizes = [(keep, data) for keep in KEEPS if (data := cells.get(f"{keep:g}")) is not None and "default" in data]
    text: list[str] = []
    if sizes:
        heads = ("kept", "loss", *(f"{name}: change" for name in SWITCHES))
        rows = [
            (percent(keep, 0), significant(data["default"]), *(_change(data["changes"].get(s)) for s in SWITCHES))
            for keep, data in sizes
        ]
        text += [f"Loss in {sizes[0][1]['unit']}, {sizes[0][1]['n']} test samples.", "", *table(heads, rows)]
    if (signed := cells.get("signed")) is not None and signed["sizes"]:
        rows = [
            (percent(float(keep), 0), with_interval(each["top1"][2], 4), with_interval(each["loss"][2], 4))
            for keep, each in signed["sizes"].items()
        ]
        text += [f"The signed term, {signed['labels']} labels:", ""]
        text += table(("kept", "top-1: change", "labelled loss: change"), rows)
    return text


def _change(triple: Any) -> str:
    return "–" if triple is None else significant(triple)


PART = Part("shelved", "Switches that did not pay, again", cells, sections("shelved", _section), MODELS, costly=True)
