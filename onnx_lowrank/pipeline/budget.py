"""What a size or a time leaves for the sites, and whether it can be reached at all."""

from __future__ import annotations

from onnx_lowrank.errors import GoalError
from onnx_lowrank.goals import Lossless
from onnx_lowrank.plan import Problem
from onnx_lowrank.results.parts import Size

NODE_BYTES = 700
"""What a factored site adds to a file besides weights: a node, names, provenance. High, as a target must be met."""
FILE_BYTES, RANK_BYTES = 3072, 192
"""What provenance adds to a file, and to it and its nodes for every factored weight besides its name."""


def budget_of(goal: Lossless, problem: Problem, before: Size) -> float:
    """Return what the sites may cost in the problem's resource. Raises GoalError that names the smallest reachable."""
    if problem.resource == "latency" and goal.target_latency is not None:
        rest = before.milliseconds - problem.dense
        budget = goal.target_latency * before.milliseconds - rest
        least = (rest + problem.smallest) / (before.milliseconds or 1.0)
        text = (
            f"--target-latency {goal.target_latency:g} cannot be reached: by the measured times of the weights the"
            f" smallest share of the original's time is {_up(least)}"
        )
    elif goal.keep is not None:
        rest = before.parameters - problem.dense
        budget, least = goal.keep * before.parameters - rest, (rest + problem.smallest) / before.parameters
        text = f"--keep {goal.keep:g} cannot be reached: the smallest share of the parameters is {_up(least)}"
    elif goal.target_macs is not None:
        rest = before.macs - problem.dense
        budget, least = goal.target_macs * before.macs - rest, (rest + problem.smallest) / before.macs
        text = f"--target-macs {goal.target_macs:g} cannot be reached: the smallest share is {_up(least)}"
    else:
        rest = before.bytes - problem.dense + NODE_BYTES * len(problem.curves) + FILE_BYTES
        target = goal.target_size or 0
        budget, least = target - rest, rest + problem.smallest
        text = f"--target-size {target:,} bytes cannot be reached: the smallest is {least:,.0f} bytes"
    if budget < problem.smallest:
        raise GoalError(f"{text}; ask for that or more, or for a smaller --rank-multiple")
    return budget


def _up(share: float) -> str:
    """Return a share rounded up to three digits, so that asking for it works."""
    return f"{min(int(share * 1000 + 1), 1000) / 1000:.3f}"
