"""The compact algorithm: the smallest model that holds (arXiv 2412.06867), by a bracketed search over the budget."""

from __future__ import annotations

from collections.abc import Generator

from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.plan.problem import Problem, amount
from onnx_lowrank.types import Plan

STEPS = 9
"""Validations at most: the bracket ends at about 1/150 of the range between the smallest model and the original."""
INITIAL_STEPS = 4
"""The first proposals, boldest first, at even distances over the range: whether a plan holds need not be monotone in
its size (a gate of 0 is a matter of single samples), so one that fails must not close off all that are smaller."""
RESOLUTION = 0.002


def compact(problem: Problem) -> Generator[Plan, bool, None]:
    """Yield plans to measure; send back whether each held. The smallest that held is the answer.

    Goes up from the smallest possible cost (assumed to fail) in INITIAL_STEPS equal steps until a plan holds, then
    bisects between it and the last that failed. A plan often costs less than its budget, so the bracket closes on
    costs, not on budgets.
    """
    low, high = problem.smallest, problem.dense
    span, any_held = high - low, False
    seen: set[object] = set()
    for step in range(STEPS):
        if high - low <= RESOLUTION * span:
            return
        rising = step < INITIAL_STEPS and not any_held
        budget = problem.smallest + span * (step + 1) / (INITIAL_STEPS + 1) if rising else (low + high) / 2
        plan = least_loss(problem, budget, f"proposal {step + 1}" if rising else f"bisection {step + 1}")
        if plan is None or not plan.factored or plan.choices in seen:
            low = max(low, budget)
            continue
        seen.add(plan.choices)
        held = yield plan
        any_held = any_held or held
        if held:
            high = min(budget, amount(plan.cost, problem.resource))
        else:
            low = max(low, budget)
