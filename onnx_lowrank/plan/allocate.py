"""Which rule picks a plan for a budget: the plain knapsack, or the one with the terms between sites."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.numerics.rounding import not_above
from onnx_lowrank.plan.baselines import paper_descent
from onnx_lowrank.plan.interlayer import interlayer
from onnx_lowrank.plan.knapsack import relaxed
from onnx_lowrank.plan.problem import Problem
from onnx_lowrank.types import Plan


def least_loss(problem: Problem, budget: float, origin: str) -> Plan | None:
    """Return the plan of least predicted loss within the budget, with inter-layer terms where the problem has any."""
    if not problem.tails:
        return problem.best(budget, origin)
    plan = interlayer(replace(problem, tails=None), budget, problem.tails)
    return None if plan is None else replace(plan, origin=origin)


POINTS = 100
"""Budgets that a curve's plans are made for."""


def curve_plans(problem: Problem, gamma: float | None = None, *, fine: bool = False) -> list[Plan]:
    """Return the plans of least predicted loss at POINTS budgets, largest first, each once; `gamma`: the paper's.

    fine: at as many more, closer to each other where little is left. Where plans are not made by the predicted loss
    alone (`Problem.blend`), those that are predicted to lose more than a smaller one are left out.
    """
    budgets = np.linspace(problem.dense, problem.smallest, POINTS).tolist()
    if fine and problem.smallest > 0:
        budgets = sorted({*budgets, *np.geomspace(problem.dense, problem.smallest, POINTS).tolist()}, reverse=True)
    plans: dict[object, Plan] = {}
    for plan in along(problem, budgets, "curve", gamma):
        plans.setdefault(plan.choices, plan)
    return worth_their_size(list(plans.values())) if problem.blend else list(plans.values())


def worth_their_size(plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans, largest first, without those that are predicted to lose more than a smaller one."""
    kept, least = [], math.inf
    for plan in reversed(plans):
        if not_above(plan.loss, least):
            kept.append(plan)
            least = min(plan.loss, least)
    return kept[::-1]


def along(problem: Problem, budgets: Sequence[float], origin: str, gamma: float | None) -> Iterator[Plan]:
    """Yield a plan for every falling budget that can be met, close to the best: for whole curves.

    gamma: by the paper's rule, which goes down one path; else by the relaxation, with inter-layer terms where the
    problem has any.
    """
    if gamma is not None:
        yield from paper_descent(problem, budgets, gamma)
        return
    for budget in budgets:
        if problem.tails:
            plan = interlayer(replace(problem, tails=None), budget, problem.tails, relaxed)
        else:
            plan = problem.quick(budget, origin)
        if plan is not None:
            yield replace(plan, origin=origin)
