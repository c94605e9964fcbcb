"""`--target-size` of a stack: int8 files are measured, not predicted, and the budget of the factors follows."""

from __future__ import annotations

from collections.abc import Callable, Generator

from onnx_lowrank.errors import GoalError
from onnx_lowrank.plan import Problem, lossless
from onnx_lowrank.types import Plan

FLOAT_BYTES = 4
"""Bytes in float32, which costs count in, for one in int8."""
TRIES = 6
MARGIN = 1.05
"""By how much more than what a file is too large the budget shrinks."""


def stack_budget(target: int, problem: Problem, alone: int) -> float:
    """Return what the sites may cost in float bytes, about: `alone` is the whole file in int8 with none factored."""
    wanted = problem.dense - FLOAT_BYTES * (alone - target)
    return min(max(wanted, problem.smallest), problem.dense)


def plans_within(
    target: int, problem: Problem, budget: float, measured: Callable[[Plan], int]
) -> Generator[Plan, bool, None]:
    """Yield lossless plans whose files are within `target` bytes, as `measured`.

    Raises GoalError with the smallest file where none is: the budget shrinks by what the last file was too large, and
    goes to the smallest in the end.
    """
    for attempt in range(TRIES):
        budget = problem.smallest if attempt == TRIES - 1 else max(budget, problem.smallest)
        sizes: list[int] = []
        yielded = False
        for plan in lossless(problem, budget):
            sizes.append(measured(plan))
            if sizes[-1] <= target:
                yielded = True
                yield plan
        if yielded or not sizes:
            return
        if budget <= problem.smallest:
            raise GoalError(
                f"--target-size {target:,} bytes cannot be reached: the smallest factored and quantised file has"
                f" {min(sizes):,} bytes; ask for that or more, or for a smaller --rank-multiple"
            )
        budget -= MARGIN * FLOAT_BYTES * (min(sizes) - target)
