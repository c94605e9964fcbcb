"""The lossless algorithm: the most accurate model within a budget (arXiv 2412.06867).

Several allocations compete for the same budget, since a prediction is only a proxy; what they are measured to lose on
samples that nothing was fitted on says which is best. A smaller one competes, too: what loses more than a smaller plan
is not worth its size.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.plan.problem import Problem, blended
from onnx_lowrank.types import Plan

MIXED = 0.5
"""The measure that competes with the predicted loss: the geometric mean of loss and error."""
SMALLER = 0.85
"""The share of the budget that the smaller one has."""


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
    if problem.blend:
        yield problem.best(budget, "least predicted loss alone", lambda option: option.loss)
    else:
        yield problem.best(budget, "least loss and error at the sites", lambda option: blended(option, MIXED))
    yield problem.best(budget, "least summed error at the sites", lambda option: option.error)
    yield problem.uniform(budget)
    yield least_loss(problem, SMALLER * budget, "least predicted loss, smaller than asked for")
