"""The compact algorithm: the smallest model that holds (arXiv 2412.06867), by a bracketed search over the budget."""

from __future__ import annotations

from collections.abc import Generator

from onnx_lowrank.plan.choose import least_loss
from onnx_lowrank.plan.problem import Problem, amount
from onnx_lowrank.types import Plan

STEPS = 9
"""Validations at most: the bracket ends at about 1/500 of the range between the smallest model and the original."""
RESOLUTION = 0.002


def compact(problem: Problem) -> Generator[Plan, bool, None]:
    """Yield plans to measure; send back whether each held. The smallest that held is the answer.

    Bisects the budget between the smallest reachable cost (taken to fail) and the dense one (known to hold). A plan
    often costs less than its budget, so the bracket closes on costs, not on budgets.
    """
    low, high = problem.smallest, problem.dense
    span = high - low
    seen: set[object] = set()
    for step in range(STEPS):
        if high - low <= RESOLUTION * span:
            return
        budget = (low + high) / 2
        plan = least_loss(problem, budget, f"bisection {step + 1}")
        if plan is None or not plan.factored or plan.choices in seen:
            low = budget
            continue
        seen.add(plan.choices)
        held = yield plan
        if held:
            high = min(budget, amount(plan.cost, problem.resource))
        else:
            low = budget
