"""Ranks for a size by rules of others, and what these rules look at: for part "methods"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import scipy.linalg

from benchmarks import workbench as wb
from benchmarks.workbench import Array, Decomposed, Moments, Option, Plan, Problem
from onnx_lowrank import Session

POWER = 0.5
"""ASVD's α: inputs are scaled by their root mean square to this power (arXiv 2312.05821: by their mean size)."""
Allocate = Callable[[Problem, float], Plan | None]
"""(choice of ranks, parameters that the factorable weights may keep) -> plan, None where none is as small."""


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
        if not option.shared_input
        and option.error < now.error
        and 0 < option.cost.parameters - now.cost.parameters <= left
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


def kronecker_curves(session: Session) -> tuple[wb.Curve, ...]:
    """Return the curves with the A ⊗ B score of every option in place of the exact one."""
    calibrated = session.state.calibrated
    scored = calibrated.joint.scored if calibrated.joint else {}

    def options(curve: wb.Curve) -> Iterator[Option]:
        for option in curve.options:
            score = scored.get((curve.site, option.scheme))
            if option.dense:
                yield option
            elif score is not None and option.ranks in score.ranks:
                yield replace(option, loss=float(score.kron[score.ranks.index(option.ranks)]))

    return tuple(replace(curve, options=tuple(options(curve))) for curve in calibrated.decomposed.curves)


def spectra(session: Session, made: Decomposed) -> dict[tuple[str, str], Array]:
    """Return (site id, scheme) -> singular values, of every scheme with one truncation: what ALDS bounds."""
    return {
        (site.id, scheme.name): wb.spectrum(scheme, session.inventory.weight(site), site.groups)
        for site in session.inventory.sites
        for scheme in wb.SCHEMES
        if (site.id, scheme.name) in made.factors and len(scheme.sides(site.shape, site.groups)) == 1
    }
