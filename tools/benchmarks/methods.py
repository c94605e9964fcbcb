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
import scipy.linalg

from benchmarks import workbench as wb
from benchmarks.lines import Line
from benchmarks.methods_page import KEEPS, OURS, SHARES, body, cell_name, draw_accuracy
from benchmarks.parts import Cell, Part
from benchmarks.scores import Scored, ahead, compared, original_on_test, packed, unpacked
from benchmarks.wording import Triple
from benchmarks.workbench import Array, Built, Decomposed, Moments, Option, Plan, Problem, Workbench
from benchmarks.zoo import CLASSIFIERS, MODELS, ROOT
from onnx_lowrank import GoalError, Study

REPLICATES = (0, 1, 2)
MOST = 128
"""Test samples a set that the divergence is measured on, at most."""
POWER = 0.5
"""ASVD's α: inputs are scaled by their root mean square to this power (arXiv 2312.05821: by their mean size)."""
GAMMAS = (0.1, 0.2, 0.4, 0.8, 1.0)
"""The paper's bounds on a layer's error: the smallest at which the size can be reached at all."""
LOSSES = {"ppocr": "models/losses.py:ctc"}
"""The labelled losses of "+ signed" and "paper" where cross-entropy does not fit; they need labelled calibration."""
Rule = Callable[[Workbench, int | None, float], Built]
"""(workbench, replicate, share of the factorable parameters) -> plan and factors."""
Allocate = Callable[[Problem, float], Plan | None]


def filled(problem: Problem, plan: Plan | None, budget: float, first: Callable[[Option, Option], float]) -> Plan | None:
    """Return the plan with what it leaves of the budget given away, a step at a time.

    Ranks are multiples of 8 and many sites have one shape, so one share or bound for all can be far below the budget.
    Each step goes to the site of least `first(option, dense option)` that can have one.
    """
    if plan is None:
        return None
    picks = [curve.options.index(choice.option) for curve, choice in zip(problem.curves, plan.choices, strict=True)]
    left = budget - plan.cost.parameters
    while True:
        there = [
            (first(curve.options[pick], curve.dense), site, to)
            for site, (curve, pick) in enumerate(zip(problem.curves, picks, strict=True))
            if (to := _next(curve, pick, left)) is not None
        ]
        if not there:
            return problem.plan(picks, f"{plan.origin}, filled")
        _, site, to = min(there)
        options = problem.curves[site].options
        left -= options[to].cost.parameters - options[picks[site]].cost.parameters
        picks[site] = to


def _next(curve: wb.Curve, pick: int, left: float) -> int | None:
    """Return the cheapest option of less error that costs more than the one picked, but at most `left` more."""
    now = curve.options[pick]
    fitting = [
        (option.cost.parameters, option.error, index)
        for index, option in enumerate(curve.options)
        if not option.family and option.error < now.error and 0 < option.cost.parameters - now.cost.parameters <= left
    ]
    return min(fitting)[2] if fitting else None


def uniform(problem: Problem, budget: float) -> Plan | None:
    """Return the plan that keeps the same share of every site; what is over goes where the share is smallest."""
    plan = problem.uniform(budget)
    return filled(problem, plan, budget, lambda now, dense: now.cost.parameters / dense.cost.parameters)


def bounded(rule: Allocate) -> Allocate:
    """Return a rule with one bound on the error for all sites; what is over goes where the error is largest."""
    return lambda problem, budget: filled(problem, rule(problem, budget), budget, lambda now, dense: -now.error)


def scaled(weight: Array, fit: Moments) -> Moments:
    """Return moments under which whitened SVD is that of W S: second moments S², and those of the outputs, W S² Wᵀ.

    S = diag(s), s the root mean square of each input to the power of α (ASVD).
    """
    power = (fit.A if fit.A.ndim == 1 else np.diag(fit.A)) / fit.positions
    squares = np.maximum(power, 1e-12 * max(float(power.max()), 1e-30)) ** POWER
    A = np.diag(squares) * fit.positions if fit.A.ndim == 2 else squares * fit.positions
    if fit.C is None:
        return replace(fit, A=A)
    groups = len(squares) // weight.shape[1]
    parts = np.split(np.asarray(weight, np.float64).reshape(*weight.shape[:2], -1), groups)
    scales = squares.reshape(groups, -1)
    blocks = [
        (part * scale[:, None]).reshape(len(part), -1) @ part.reshape(len(part), -1).T
        for part, scale in zip(parts, scales, strict=True)
    ]
    return replace(fit, A=A, C=scipy.linalg.block_diag(*blocks) * fit.positions)


def _plain(bench: Workbench, replicate: int | None) -> Decomposed:
    return bench.plain


def _whitened(bench: Workbench, replicate: int | None) -> Decomposed:
    return bench.decomposed(replicate, _as_collected)


def _as_collected(weight: Array, fit: Moments) -> Moments:
    return fit


def _rule(made: Callable[[Workbench, int | None], Decomposed], allocate: Allocate) -> Rule:
    """Return a rule of others on one decomposition."""

    def build(bench: Workbench, replicate: int | None, share: float) -> Built:
        basis = made(bench, replicate)
        problem = wb.problem_of(bench.study, basis.curves)
        return allocate(problem, share * problem.dense), basis.factors

    return build


def _alds(bench: Workbench, replicate: int | None, share: float) -> Built:
    bounds = wb.spectra(bench.study, bench.plain)
    return _rule(_plain, bounded(lambda problem, budget: wb.alds(problem, budget, bounds)))(bench, replicate, share)


def _paper(bench: Workbench, replicate: int | None, share: float) -> Built:
    study = bench.collected(replicate, sensitivity="paper", loss=loss_of(bench.entry.name))
    problem = wb.problem_of(study, study.stand.calibrated.decomposed.curves)
    plans = (wb.paper_lossless(problem, share * problem.dense, gamma) for gamma in GAMMAS)
    return next((plan for plan in plans if plan is not None), None), study.stand.calibrated.decomposed.factors


def _ours(curves: Callable[[Study], Any] = lambda study: study.stand.curves, **switches: Any) -> Rule:
    """Return the plan of least predicted loss on some curves of a collection under switched options."""

    def build(bench: Workbench, replicate: int | None, share: float) -> Built:
        study = bench.collected(replicate, **switches)
        problem = replace(study.problem("parameters"), curves=curves(study))
        plan = wb.least_loss(problem, share * problem.dense, "global")
        return plan, study.factors(plan, study.stand) if plan else {}

    return build


def _signed(bench: Workbench, replicate: int | None, share: float) -> Built:
    return _ours(signed=True, loss=loss_of(bench.entry.name))(bench, replicate, share)


def _continued(bench: Workbench, replicate: int | None, share: float) -> Built:
    """Go half of the way in a first step, collect again there, and go on."""
    study = bench.collected(replicate, continuation=2)
    problem = study.problem("parameters")
    first = problem.best((1 + share) / 2 * problem.dense, "first step")
    if first is None:
        return None, {}
    there = study.shrink(study.stand, first)
    plan = wb.least_loss(study.problem("parameters", there), share * problem.dense, "global")
    return plan, study.factors(plan, there) if plan else {}


def loss_of(model: str) -> str | None:
    """Return the labelled loss of a model, None for cross-entropy."""
    return str(ROOT / LOSSES[model]) if model in LOSSES else None


METHODS: Mapping[str, Rule] = {
    OURS: _ours(),
    "plain SVD": _rule(_plain, uniform),
    "energy threshold": _rule(_plain, bounded(wb.energy)),
    "ALDS": _alds,
    "SVD-LLM": _rule(_whitened, uniform),
    "ASVD": _rule(lambda bench, replicate: bench.decomposed(replicate, scaled), uniform),
    "paper": _paper,
}
STEPS: Mapping[str, Rule] = {
    "plain, global": _ours(sensitivity="weights"),
    "whitened, global": _ours(sensitivity="inputs"),
    "A ⊗ B score": _ours(wb.kronecker_curves),
    "exact score": _ours(lambda study: study.stand.calibrated.decomposed.curves),
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
    whole, dense = bench.study.found.parameters, wb.factorable(bench.study)
    try:
        plan, factors = {**METHODS, **STEPS}[name](bench, replicate, (keep * whole - (whole - dense)) / dense)
    except GoalError as refusal:
        return None, {"reachable": False, "why": str(refusal)}
    if plan is None:
        return None, {"reachable": False, "why": "no plan of this size within the rule"}
    about = {"reachable": True, "kept": wb.kept_of(bench.study, plan), "predicted": plan.loss}
    return bench.rewritten(bench.study, plan, factors), about


def _labelled(bench: Workbench, name: str, keep: float) -> Line:
    model, about = _built(bench, name, keep, None)
    if model is None:
        return about
    made = Scored.of(bench.runner(model), bench.samples(bench.entry.tests[0]))
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
