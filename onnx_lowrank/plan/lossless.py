"""The lossless algorithm: the most accurate model within a budget (arXiv 2412.06867).

Several allocations compete for the same budget, since a prediction is only a proxy; validation says which is best.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.plan.problem import Problem
from onnx_lowrank.types import Plan


def lossless(problem: Problem, budget: float) -> Generator[Plan, bool, None]:
    """Yield the plans to measure, all within `budget`; what was sent back about the last one is not needed.

    A plan that changes nothing is not one: that the original holds needs no measurement.
    """
    seen: set[object] = set()
    for plan in _allocations(problem, budget):
        if plan is not None and plan.factored and plan.choices not in seen:
            seen.add(plan.choices)
            yield plan


def _allocations(problem: Problem, budget: float) -> Iterator[Plan | None]:
    yield least_loss(problem, budget, "least predicted loss")
    yield problem.best(budget, "least summed error at the sites", lambda option: option.error)
    yield problem.uniform(budget)
