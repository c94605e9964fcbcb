"""The multiple-choice knapsack: exactly one option a group, least loss within a budget. Pure arrays.

Solved exactly by HiGHS (scipy.optimize.milp); where that ends without a solution, by the Lagrangian relaxation
(Sinha and Zoltners, Operations Research 27(3), 1979), whose answer is always feasible.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import scipy.optimize
import scipy.sparse

from onnx_lowrank.types import Array

Solver: TypeAlias = Callable[[Sequence[Array], Sequence[Array], float], list[int] | None]
"""(losses, costs, budget) -> one index a group, None where none fits: `solve` or `relaxed`."""
NODE_LIMIT = 20_000
"""Branch-and-bound nodes: a bound that gives the same answer on any machine, unlike a time limit."""
SECONDS = 60.0
"""Only a safety net, far above what NODE_LIMIT takes."""
SLACK = 1e-9
"""Relative rounding allowed when a solution is checked against its budget."""


def solve(losses: Sequence[Array], costs: Sequence[Array], budget: float) -> list[int] | None:
    """Return one index a group that minimises the summed loss with summed cost ≤ budget; None where none fits.

    losses, costs: for every group, arrays (options,) of finite numbers, costs ≥ 0. Losses may be negative: each group's
    are shifted to start at 0, which changes no choice (`scale` must be positive).
    """
    prepared = _prepared(losses, costs, budget)
    if prepared is None:
        return None
    kept, losses, costs = prepared
    near = lagrangian(losses, costs, budget)
    exact = _milp(losses, costs, budget, scale=_total(losses, near))
    picks = near if exact is None or _total(losses, exact) > _total(losses, near) else exact
    return [int(k[pick]) for k, pick in zip(kept, picks, strict=True)]


def relaxed(losses: Sequence[Array], costs: Sequence[Array], budget: float) -> list[int] | None:
    """Return what `solve` would, by the Lagrangian relaxation alone: feasible, nearly optimal, in milliseconds."""
    prepared = _prepared(losses, costs, budget)
    if prepared is None:
        return None
    kept, losses, costs = prepared
    return [int(k[pick]) for k, pick in zip(kept, lagrangian(losses, costs, budget), strict=True)]


def _prepared(
    losses: Sequence[Array], costs: Sequence[Array], budget: float
) -> tuple[list[Array], list[Array], list[Array]] | None:
    """Return undominated indices, shifted losses and costs a group; None where the budget cannot be met."""
    losses = [loss - loss.min() for loss in losses]
    cheapest = sum(float(cost.min()) for cost in costs)
    if cheapest > budget * (1 + SLACK):
        return None
    kept = [_undominated(loss, cost) for loss, cost in zip(losses, costs, strict=True)]
    return (
        kept,
        [loss[k] for loss, k in zip(losses, kept, strict=True)],
        [cost[k] for cost, k in zip(costs, kept, strict=True)],
    )


def _total(values: Sequence[Array], picks: Sequence[int]) -> float:
    return float(sum(value[pick] for value, pick in zip(values, picks, strict=True)))


def _undominated(loss: Array, cost: Array) -> Array:
    """Return the indices of options that no other beats in both, by rising cost (ties: the first)."""
    order = np.lexsort((loss, cost))
    best, kept = np.inf, []
    for index in order:
        if loss[index] < best:
            kept.append(index)
            best = loss[index]
    return np.array(kept)


def _milp(losses: Sequence[Array], costs: Sequence[Array], budget: float, scale: float) -> list[int] | None:
    """Solve exactly, objective in units of `scale` and cost in units of the budget; None without a checked solution."""
    if budget <= 0:
        return None
    sizes = [len(loss) for loss in losses]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    one_each = scipy.sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    weights = np.concatenate(list(costs)) / budget
    with _silent():
        result = scipy.optimize.milp(
            np.concatenate(list(losses)) / (scale or 1.0),
            integrality=np.ones(len(rows), np.int64),
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=[
                scipy.optimize.LinearConstraint(one_each, 1, 1),
                scipy.optimize.LinearConstraint(weights[None, :], -np.inf, 1.0),
            ],
            options={"node_limit": NODE_LIMIT, "time_limit": SECONDS, "mip_rel_gap": 1e-6},
        )
    if result.x is None:
        return None
    starts = np.cumsum([0, *sizes[:-1]])
    picks = [int(np.argmax(result.x[a : a + n])) for a, n in zip(starts, sizes, strict=True)]
    return picks if _total(costs, picks) <= budget * (1 + SLACK) else None


@contextmanager
def _silent() -> Iterator[None]:
    """Hold back what HiGHS writes to the process's standard output, whatever its options say.

    (`HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();`, scipy 1.17.)
    """
    try:
        kept = os.dup(1)
    except OSError:  # no standard output at all
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stdout.flush()
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def lagrangian(losses: Sequence[Array], costs: Sequence[Array], budget: float) -> list[int]:
    """Return a feasible choice: least loss + λ cost at the smallest λ that fits, then improved greedily.

    The options must be undominated and sorted by rising cost, and the cheapest of every group must fit together.
    """
    low, high = 0.0, 1.0
    pick = [int(np.argmin(cost)) for cost in costs]
    while _total(costs, _at(losses, costs, high)) > budget and high < 1e30:
        low, high = high, high * 8
    for _ in range(100):
        middle = (low + high) / 2 if low else high / 2
        trial = _at(losses, costs, middle)
        if _total(costs, trial) <= budget:
            pick, high = trial, middle
        else:
            low = middle
        if low and high - low <= 1e-12 * high:
            break
    return _improved(losses, costs, budget, pick)


def _at(losses: Sequence[Array], costs: Sequence[Array], price: float) -> list[int]:
    return [int(np.argmin(loss + price * cost)) for loss, cost in zip(losses, costs, strict=True)]


def _improved(losses: Sequence[Array], costs: Sequence[Array], budget: float, picks: list[int]) -> list[int]:
    """Spend what is left: repeatedly the upgrade with the best loss saved for its cost."""
    picks = list(picks)
    spent = _total(costs, picks)
    while True:
        best: tuple[float, int, int] | None = None
        for group, (loss, cost) in enumerate(zip(losses, costs, strict=True)):
            for option in range(picks[group] + 1, len(loss)):
                extra = float(cost[option] - cost[picks[group]])
                gain = float(loss[picks[group]] - loss[option])
                if gain > 0 and spent + extra <= budget and (best is None or gain / max(extra, 1e-30) > best[0]):
                    best = (gain / max(extra, 1e-30), group, option)
        if best is None:
            return picks
        spent += float(costs[best[1]][best[2]] - costs[best[1]][picks[best[1]]])
        picks[best[1]] = best[2]
