"""Which rule picks a plan for a budget: the plain knapsack, or the one with the terms between sites."""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.plan.interlayer import interlayer
from onnx_lowrank.plan.problem import Problem
from onnx_lowrank.types import Plan


def least_loss(problem: Problem, budget: float, origin: str) -> Plan | None:
    """Return the plan of least predicted loss within the budget, with inter-layer terms where the problem has any."""
    if not problem.tails:
        return problem.best(budget, origin)
    plan = interlayer(replace(problem, tails=None), budget, problem.tails)
    return None if plan is None else replace(plan, origin=origin)
