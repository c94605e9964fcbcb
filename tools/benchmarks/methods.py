"""Part "methods": ways to choose factors and ranks at equal size, on the same weights and calibration samples.

A size is a share of the whole file's parameters. Ranks are chosen on calibration samples alone, and every plan meets
the test samples once. Of classifiers: top-1 and loss on test labels; ours is measured first, and its decisions are kept
so that every other method's are paired with them. Of models with a metric of their own: the divergence from the
original's outputs on unseen inputs and the recipe's metric, over replicates that leave out a tenth of the calibration
samples each; there the switches of ours are measured, too, and what each of its steps is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.allocation import Allocate, bounded, kronecker_curves, scaled, spectra, uniform
from benchmarks.lines import Line
from benchmarks.methods_page import KEEPS, OURS, SHARES, body, cell_name, draw_accuracy
from benchmarks.parts import Cell, Part
from benchmarks.scores import Scores, ahead, compared, original_on_test, packed, unpacked
from benchmarks.wording import Triple
from benchmarks.workbench import Array, Built, Decomposed, Moments, Workbench
from benchmarks.zoo import CLASSIFIERS, MODELS, ROOT
from onnx_lowrank import GoalError, Session

REPLICATES = (0, 1, 2)
MOST = 128
"""Test samples a set that the divergence is measured on, at most."""
GAMMAS = (0.1, 0.2, 0.4, 0.8, 1.0)
"""The paper's bounds on a layer's error: the smallest at which the size can be reached at all."""
LOSSES = {"ppocr": "models/losses.py:ctc"}
"""The labelled losses of "+ signed" and "paper" where cross-entropy does not fit; they need labelled calibration."""
Rule = Callable[[Workbench, int | None, float], Built]
"""(workbench, replicate, share of the factorable parameters) -> plan and factors."""
Basis = Callable[[Workbench, int | None], Decomposed]


def _plain(bench: Workbench, replicate: int | None) -> Decomposed:
    return bench.plain


def _scaled_by(changed: Callable[[Array, Moments], Moments]) -> Basis:
    return lambda bench, replicate: bench.decomposed(replicate, changed)


def _rule(made: Basis, allocate: Allocate) -> Rule:
    """Return a rule of others on one decomposition."""

    def build(bench: Workbench, replicate: int | None, share: float) -> Built:
        basis = made(bench, replicate)
        problem = wb.problem_of(bench.session, basis.curves)
        return allocate(problem, share * problem.dense), basis.factors

    return build


def _spectra(bench: Workbench) -> dict[tuple[str, str], Array]:
    return spectra(bench.session, bench.plain)


def _alds(bench: Workbench, replicate: int | None, share: float) -> Built:
    bounds = bench.once(_spectra)
    return _rule(_plain, bounded(lambda problem, budget: wb.alds(problem, budget, bounds)))(bench, replicate, share)


def _paper(bench: Workbench, replicate: int | None, share: float) -> Built:
    session = bench.collected(replicate, sensitivity="paper", loss=loss_of(bench.entry.name))
    problem = wb.problem_of(session, session.state.calibrated.decomposed.curves)
    plans = (wb.paper_lossless(problem, share * problem.dense, gamma) for gamma in GAMMAS)
    return next((plan for plan in plans if plan is not None), None), session.state.calibrated.decomposed.factors


def _ours(curves: Callable[[Session], Any] = lambda session: session.state.curves, **switches: Any) -> Rule:
    """Return the plan of least predicted loss on some curves of a collection under switched options."""

    def build(bench: Workbench, replicate: int | None, share: float) -> Built:
        session = bench.collected(replicate, **switches)
        problem = replace(session.problem("parameters"), curves=curves(session))
        plan = wb.least_loss(problem, share * problem.dense, "global")
        return plan, session.factors(plan, session.state) if plan else {}

    return build


def _signed(bench: Workbench, replicate: int | None, share: float) -> Built:
    return _ours(signed=True, loss=loss_of(bench.entry.name))(bench, replicate, share)


def _continued(bench: Workbench, replicate: int | None, share: float) -> Built:
    """Go half of the way in a first step, collect again there, and go on."""
    session = bench.collected(replicate, continuation=2)
    problem = session.problem("parameters")
    first = problem.best((1 + share) / 2 * problem.dense, "first step")
    if first is None:
        return None, {}
    there = session.shrink(session.state, first)
    plan = wb.least_loss(session.problem("parameters", there), share * problem.dense, "global")
    return plan, session.factors(plan, there) if plan else {}


def loss_of(model: str) -> str | None:
    """Return the labelled loss of a model, None for cross-entropy."""
    return str(ROOT / LOSSES[model]) if model in LOSSES else None


METHODS: Mapping[str, Rule] = {
    OURS: _ours(),
    "plain SVD": _rule(_plain, uniform),
    "energy threshold": _rule(_plain, bounded(wb.energy)),
    "ALDS": _alds,
    "SVD-LLM": _rule(_scaled_by(lambda weight, fit: fit), uniform),
    "ASVD": _rule(_scaled_by(scaled), uniform),
    "paper": _paper,
}
STEPS: Mapping[str, Rule] = {
    "plain, global": _ours(sensitivity="weights"),
    "whitened, global": _ours(sensitivity="inputs"),
    "A ⊗ B score": _ours(kronecker_curves),
    "exact score": _ours(lambda session: session.state.calibrated.decomposed.curves),
    "+ signed": _signed,
    "+ inter-layer": _ours(inter_layer=True),
    "+ refit": _ours(refit=True),
    "+ continuation": _continued,
}
SLOW = {"+ refit": SHARES[1:2], "+ continuation": SHARES[1:2]}
"""These run or collect again for every plan, so they are measured at one size."""
UNSEEING = ("plain SVD", "energy threshold", "ALDS")
"""These see no data, so one replicate is all."""


def cells(model: str, quick: bool) -> list[Cell]:
    """Return every cell: of a classifier ours first; else a replicate at a time, as its collections serve all of it."""
    if model in CLASSIFIERS:
        keeps = KEEPS[1:2] if quick else KEEPS
        return [Cell(cell_name(name, k), partial(_labelled, name=name, keep=k)) for name in METHODS for k in keeps]
    return [
        Cell(cell_name(name, keep, seed), partial(_unlabelled, name=name, keep=keep, replicate=seed))
        for seed in REPLICATES[: 1 if quick else None]
        for name in (*METHODS, *STEPS)
        if not seed or name not in UNSEEING
        for keep in (SHARES[1:2] if quick else SLOW.get(name, SHARES))
    ]


def _built(bench: Workbench, name: str, keep: float, replicate: int | None) -> tuple[Any, Line]:
    """Return the model of a method at a size, None where it has none, and what is to be told of its plan."""
    whole, dense = bench.session.inventory.parameters, wb.factorable(bench.session)
    try:
        plan, factors = {**METHODS, **STEPS}[name](bench, replicate, (keep * whole - (whole - dense)) / dense)
    except GoalError as refusal:
        return None, {"reachable": False, "why": str(refusal)}
    if plan is None:
        return None, {"reachable": False, "why": "no plan of this size within the rule"}
    about = {"reachable": True, "kept": wb.kept_of(bench.session, plan), "predicted": plan.loss}
    return bench.rewritten(bench.session, plan, factors), about


def _labelled(bench: Workbench, name: str, keep: float) -> Line:
    model, about = _built(bench, name, keep, None)
    if model is None:
        return about
    made = Scores.of(bench.runner(model), bench.samples(bench.entry.tests[0]))
    about |= compared(bench.once(original_on_test), made)
    if name == OURS:
        return {**about, "hits": packed(made.hits)}
    entry = bench.entry
    ours = bench.lines.get("methods", entry.name, cell_name(OURS, keep), entry.sha256)
    hits = unpacked(ours["hits"], ours["n"]) if ours is not None and "hits" in ours else None
    return about if hits is None else {**about, "ahead": ahead(made.hits, hits)}


def _unlabelled(bench: Workbench, name: str, keep: float, replicate: int) -> Line:
    model, about = _built(bench, name, keep, replicate)
    if model is None:
        return about
    entry, sets = bench.entry, bench.entry.tests
    losses = {s.name: bench.divergences(model, wb.some(bench.samples(s), MOST), f"{s.name}, {MOST}") for s in sets}

    def mean(values: Any) -> Triple:
        return wb.triple(wb.single_interval(values, wb.LEVEL))

    return {
        **about, "unit": bench.objective.unit, "loss": mean(np.concatenate([*losses.values()])),
        "losses": {test: mean(values) for test, values in losses.items()}, "tests": bench.judged(model, entry.tests),
    }  # fmt: skip


PART = Part("methods", "Methods at equal size", cells, body, MODELS, figures={"methods.svg": draw_accuracy})
