"""`--target-size` with post-quantisation, or with bits: files are measured, not predicted; the budget follows."""

from __future__ import annotations

from collections.abc import Callable, Generator

from onnx_lowrank.errors import GoalError
from onnx_lowrank.plan import Problem, lossless
from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.types import Plan

FLOAT_BYTES = 4
"""Bytes in float32, which costs count in, for one in int8."""
TRIES = 4
"""Files that are made on the way to a budget, besides the smallest."""
ROOM = 0.01
"""Share of the target that may stay unused."""
Measured = Callable[[Plan], int]
"""Bytes of a plan's file, factored and quantised."""


def quantized_budget(target: int, problem: Problem, alone: int) -> float:
    """Return what the sites may cost in float bytes, about: `alone` is the whole file in int8 with none factored."""
    wanted = problem.dense - FLOAT_BYTES * (alone - target)
    return min(max(wanted, problem.smallest), problem.dense)


def plans_within(target: int, problem: Problem, alone: int, measured: Measured) -> Generator[Plan, bool, None]:
    """Yield lossless plans whose files are within `target` bytes; none where `alone` is.

    Raises GoalError with the smallest file where that is too large.
    """
    if alone > target:
        for plan in lossless(problem, _largest_budget(target, problem, alone, measured)):
            if measured(plan) <= target:
                yield plan


def rounded_within(target: int, problem: Problem, rest: int, measured: Measured) -> Generator[Plan, bool, None]:
    """Yield lossless plans whose files, with the nodes that unpack weights, are within `target` bytes.

    rest: the bytes of the file that are no site's. Raises GoalError with the smallest file where that is too large.
    """
    least = _bytes(problem, problem.smallest, measured)
    if least > target:
        raise GoalError(
            f"--target-size {target:,} bytes cannot be reached: the smallest is {least:,} bytes; ask for that or more,"
            " or for a smaller --rank-multiple"
        )
    budget = min(max(target - rest, problem.smallest), problem.dense)
    for _ in range(TRIES):
        over = _bytes(problem, budget, measured) - target
        if over <= 0:
            break
        budget = max(budget - over, problem.smallest)
    else:
        budget = problem.smallest
    for plan in lossless(problem, budget):
        if measured(plan) <= target:
            yield plan


def _largest_budget(target: int, problem: Problem, alone: int, measured: Measured) -> float:
    """Return the largest budget found whose plan fits: by false position between the smallest file and `alone`.

    Not by arithmetic: what int8 leaves of a weight depends on its operator (a quarter, or all of it).
    """
    low, least = problem.smallest, _bytes(problem, problem.smallest, measured)
    if least > target:
        raise GoalError(
            f"--target-size {target:,} bytes cannot be reached: the smallest factored and quantised file has"
            f" {least:,} bytes; ask for that or more, or for a smaller --rank-multiple"
        )
    high, most = problem.dense, alone
    for _ in range(TRIES):
        if target - least <= ROOM * target or high <= low:
            break
        share = (target - least) / (most - least)
        budget = low + min(max(share, 0.1), 0.9) * (high - low)
        size = _bytes(problem, budget, measured)
        if size <= target:
            low, least = budget, size
        else:
            high, most = budget, size
    return low


def _bytes(problem: Problem, budget: float, measured: Measured) -> int:
    plan = least_loss(problem, budget, "size")
    if plan is None:
        raise ValueError("a budget below the smallest")
    return measured(plan)
