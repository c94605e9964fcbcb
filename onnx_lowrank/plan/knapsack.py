"""The multiple-choice knapsack: exactly one option a group, least loss within a budget. Pure arrays.

Some options of several groups may be tied: all of them are taken, or none (siblings with one first factor). A tie costs
a few columns and equations more, however many options its groups have of their own.

Solved exactly by HiGHS (scipy.optimize.milp); where that ends without a solution, by the Lagrangian relaxation
(Sinha and Zoltners, Operations Research 27(3), 1979), whose answer is always feasible.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.optimize
import scipy.sparse

from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Tie:
    """rows: (m, groups), each one option of every one of the `groups`: all of a row are taken, or none of it.

    A group is in one tie at most, and has at least one option in none of its rows.
    """

    groups: tuple[int, ...]
    rows: Array

    def summed(self, values: Sequence[Array]) -> Array:
        """Return (m,) what every row sums to; values: (options,) of all groups there are."""
        return np.asarray(np.sum([values[g][self.rows[:, i]] for i, g in enumerate(self.groups)], axis=0))


Solver: TypeAlias = Callable[[Sequence[Array], Sequence[Array], float, Sequence[Tie]], list[int] | None]
"""(losses, costs, budget, ties) -> one index a group, None where none fits: `solve` or `relaxed`."""
NODE_LIMIT = 20_000
"""Branch-and-bound nodes: a bound that gives the same answer on any machine, unlike a time limit."""
SECONDS = 60.0
"""Only a safety net, far above what NODE_LIMIT takes."""
SLACK = 1e-9
"""Relative rounding allowed when a solution is checked against its budget."""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """losses, costs: arrays (options,) a group. free: how many of them, the first ones, are in no row of `ties`.

    The free ones are undominated and sorted by rising cost. Without `free`, all are.
    """

    losses: Sequence[Array]
    costs: Sequence[Array]
    free: Sequence[int]
    ties: Sequence[Tie] = ()

    @staticmethod
    def untied(losses: Sequence[Array], costs: Sequence[Array]) -> Groups:
        """Return groups of which all options are free."""
        return Groups(losses, costs, [len(loss) for loss in losses])

    def least(self, worth: Sequence[Array]) -> list[int]:
        """Return the picks of least summed `worth`, (options,) a group."""
        picks = [int(np.argmin(values[:count])) for values, count in zip(worth, self.free, strict=True)]
        for tie in self.ties:
            together = tie.summed(worth)
            best = int(np.argmin(together))
            if together[best] < sum(float(worth[g][picks[g]]) for g in tie.groups):
                for group, option in zip(tie.groups, tie.rows[best], strict=True):
                    picks[group] = int(option)
        return picks


def solve(losses: Sequence[Array], costs: Sequence[Array], budget: float, ties: Sequence[Tie] = ()) -> list[int] | None:
    """Return one index a group that minimises the summed loss with summed cost ≤ budget; None where none fits.

    losses, costs: for every group, arrays (options,) of finite numbers, costs ≥ 0. Losses may be negative: each group's
    are shifted to start at 0, which changes no choice (`scale` must be positive).
    """
    prepared = _prepared(losses, costs, budget, ties)
    if prepared is None:
        return None
    kept, groups = prepared
    near = lagrangian(groups, budget)
    exact = _milp(groups, budget, scale=_total(groups.losses, near))
    picks = near if exact is None or _total(groups.losses, exact) > _total(groups.losses, near) else exact
    return [int(k[pick]) for k, pick in zip(kept, picks, strict=True)]


def relaxed(
    losses: Sequence[Array], costs: Sequence[Array], budget: float, ties: Sequence[Tie] = ()
) -> list[int] | None:
    """Return what `solve` would, by the Lagrangian relaxation alone: feasible, nearly optimal, in milliseconds."""
    prepared = _prepared(losses, costs, budget, ties)
    if prepared is None:
        return None
    kept, groups = prepared
    return [int(k[pick]) for k, pick in zip(kept, lagrangian(groups, budget), strict=True)]


def least_cost(costs: Sequence[Array], ties: Sequence[Tie] = ()) -> float:
    """Return what all groups cost at least."""
    tied = _tied(len(costs), ties)
    free = [np.array([i for i in range(len(cost)) if i not in own]) for cost, own in zip(costs, tied, strict=True)]
    cheapest = [float(cost[own].min()) for cost, own in zip(costs, free, strict=True)]
    total = sum(cheapest)
    for tie in ties:
        total += min(float(tie.summed(costs).min()) - sum(cheapest[g] for g in tie.groups), 0.0)
    return total


def _tied(count: int, ties: Sequence[Tie]) -> list[set[int]]:
    """Return the options of every group that go only with those of others."""
    tied: list[set[int]] = [set() for _ in range(count)]
    for tie in ties:
        for group, column in zip(tie.groups, tie.rows.T, strict=True):
            tied[group].update(column.tolist())
    return tied


def _prepared(
    losses: Sequence[Array], costs: Sequence[Array], budget: float, ties: Sequence[Tie]
) -> tuple[list[Array], Groups] | None:
    """Return the indices that are kept and the groups of these, losses shifted; None where the budget cannot be met."""
    losses = [loss - loss.min() for loss in losses]
    if least_cost(costs, ties) > budget * (1 + SLACK):
        return None
    kept, free = [], []
    for loss, cost, tied in zip(losses, costs, _tied(len(losses), ties), strict=True):
        own = np.array([i for i in range(len(loss)) if i not in tied])
        own = own[_undominated(loss[own], cost[own])]
        kept.append(np.array([*own, *sorted(tied)]))
        free.append(len(own))
    starts = [n + np.searchsorted(k[n:], np.arange(k.max() + 1)) for n, k in zip(free, kept, strict=True)]
    moved = [
        Tie(tie.groups, np.column_stack([starts[g][tie.rows[:, i]] for i, g in enumerate(tie.groups)])) for tie in ties
    ]
    return kept, Groups(
        [loss[k] for loss, k in zip(losses, kept, strict=True)],
        [cost[k] for cost, k in zip(costs, kept, strict=True)],
        free,
        moved,
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


def _milp(groups: Groups, budget: float, scale: float) -> list[int] | None:
    """Solve exactly, objective in units of `scale` and cost in units of the budget; None without a checked solution."""
    if budget <= 0:
        return None
    sizes = [len(loss) for loss in groups.losses]
    starts = np.cumsum([0, *sizes[:-1]])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    one_each = scipy.sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    weights = np.concatenate(list(groups.costs)) / budget
    with _silent():
        result = scipy.optimize.milp(
            np.concatenate(list(groups.losses)) / (scale or 1.0),
            integrality=np.ones(len(rows), np.int64),
            bounds=scipy.optimize.Bounds(0, 1),
            constraints=[
                scipy.optimize.LinearConstraint(one_each, 1, 1),
                scipy.optimize.LinearConstraint(weights[None, :], -np.inf, 1.0),
                *_together(groups.ties, starts, len(rows)),
            ],
            options={"node_limit": NODE_LIMIT, "time_limit": SECONDS, "mip_rel_gap": 1e-6},
        )
    if result.x is None:
        return None
    picks = [int(np.argmax(result.x[a : a + n])) for a, n in zip(starts, sizes, strict=True)]
    held = all(_holds(tie, groups.free, picks) for tie in groups.ties)
    return picks if held and _total(groups.costs, picks) <= budget * (1 + SLACK) else None


def _together(ties: Sequence[Tie], starts: Array, columns: int) -> list[scipy.optimize.LinearConstraint]:
    """Return the equations that take each option of a row as often as the row's first one."""
    if not ties:
        return []
    rows = [tie.rows + starts[list(tie.groups)] for tie in ties]
    first = np.concatenate([np.repeat(row[:, 0], row.shape[1] - 1) for row in rows])
    other = np.concatenate([row[:, 1:].reshape(-1) for row in rows])
    values = np.concatenate([np.ones(len(first)), -np.ones(len(first))])
    places = (np.tile(np.arange(len(first)), 2), np.concatenate([first, other]))
    equal = scipy.sparse.csr_array((values, places), shape=(len(first), columns))
    return [scipy.optimize.LinearConstraint(equal, 0, 0)]


def _holds(tie: Tie, free: Sequence[int], picks: Sequence[int]) -> bool:
    taken = [picks[group] for group in tie.groups]
    alone = all(pick < free[group] for pick, group in zip(taken, tie.groups, strict=True))
    return alone or bool((tie.rows == taken).all(1).any())


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


def lagrangian(groups: Groups, budget: float) -> list[int]:
    """Return a feasible choice: least loss + λ cost at the smallest λ that fits, then improved greedily.

    The cheapest of all groups must fit together.
    """
    low, high = 0.0, 1.0
    pick = groups.least(groups.costs)
    while _total(groups.costs, _at(groups, high)) > budget and high < 1e30:
        low, high = high, high * 8
    for _ in range(100):
        middle = (low + high) / 2 if low else high / 2
        trial = _at(groups, middle)
        if _total(groups.costs, trial) <= budget:
            pick, high = trial, middle
        else:
            low = middle
        if low and high - low <= 1e-12 * high:
            break
    return _improved(groups, budget, pick)


def _at(groups: Groups, price: float) -> list[int]:
    return groups.least([loss + price * cost for loss, cost in zip(groups.losses, groups.costs, strict=True)])


def _improved(groups: Groups, budget: float, picks: list[int]) -> list[int]:
    """Spend what is left: repeatedly the upgrade with the best loss saved for its cost."""
    picks = list(picks)
    spent = _total(groups.costs, picks)
    while True:
        best: tuple[float, float, dict[int, int]] | None = None
        for step in _steps(groups, picks):
            extra = sum(float(groups.costs[g][o] - groups.costs[g][picks[g]]) for g, o in step)
            gain = sum(float(groups.losses[g][picks[g]] - groups.losses[g][o]) for g, o in step)
            if gain > 0 and spent + extra <= budget and (best is None or gain / max(extra, 1e-30) > best[0]):
                best = (gain / max(extra, 1e-30), extra, dict(step))
        if best is None:
            return picks
        spent += best[1]
        for group, option in best[2].items():
            picks[group] = option


def _steps(groups: Groups, picks: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Yield what can be changed at a time, (group, option) each: one free option for a dearer one, or a whole row."""
    for group, (pick, free) in enumerate(zip(picks, groups.free, strict=True)):
        yield from ([(group, option)] for option in range(pick + 1, free))
    for tie in groups.ties:
        yield from (list(zip(tie.groups, row, strict=True)) for row in tie.rows.tolist())
