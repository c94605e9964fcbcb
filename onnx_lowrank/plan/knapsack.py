"""The multiple-choice knapsack: exactly one option a group, least loss within a budget. Pure arrays.

Some options of several groups may be tied: all of them are taken, or none (a shared input with one first factor). A tie
costs a few columns and equations more, however many options its groups have of their own.

Losses that differ by rounding alone are equal (`rounding`): on any processor the solver is given the same numbers.
Solved exactly by HiGHS (scipy.optimize.milp); where that ends without a solution, by the Lagrangian relaxation
(Sinha and Zoltners, Operations Research 27(3), 1979), whose answer is always feasible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import scipy.optimize
import scipy.sparse

from onnx_lowrank.numerics.rounding import not_above, rounded
from onnx_lowrank.plan.groups import Groups, Tie
from onnx_lowrank.plan.quiet_solver import silent
from onnx_lowrank.types import Array

Solver: TypeAlias = Callable[[Sequence[Array], Sequence[Array], float, Sequence[Tie]], list[int] | None]
"""(losses, costs, budget, ties) -> one index a group, None where none fits: `solve` or `relaxed`."""
NODE_LIMIT = 20_000
"""Branch-and-bound nodes: a bound that gives the same answer on any machine, unlike a time limit."""
SECONDS = 60.0
"""Only a safety net, far above what NODE_LIMIT takes."""
SLACK = 1e-9
"""Relative rounding allowed when a solution is checked against its budget."""


def solve(losses: Sequence[Array], costs: Sequence[Array], budget: float, ties: Sequence[Tie] = ()) -> list[int] | None:
    """Return one index a group that minimises the summed loss with summed cost ≤ budget; None where none fits.

    losses, costs: for every group, arrays (options,) of finite numbers, costs ≥ 0. Losses may be negative: each group's
    are shifted to start at 0, which changes no choice (`scale` must be positive).
    """
    prepared = _prepared(losses, costs, budget, ties)
    if prepared is None:
        return None
    indices, groups = prepared
    if not indices:
        return []
    near = lagrangian(groups, budget)
    exact = _milp(groups, budget, scale=_total(groups.losses, near))
    picks = near if exact is None or _total(groups.losses, exact) > _total(groups.losses, near) else exact
    return [int(k[pick]) for k, pick in zip(indices, picks, strict=True)]


def relaxed(
    losses: Sequence[Array], costs: Sequence[Array], budget: float, ties: Sequence[Tie] = ()
) -> list[int] | None:
    """Return what `solve` would, by the Lagrangian relaxation alone: feasible, nearly optimal, in milliseconds."""
    prepared = _prepared(losses, costs, budget, ties)
    if prepared is None:
        return None
    indices, groups = prepared
    if not indices:
        return []
    return [int(k[pick]) for k, pick in zip(indices, lagrangian(groups, budget), strict=True)]


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
    losses = [loss - loss.min() for loss in map(rounded, losses)]
    if least_cost(costs, ties) > budget * (1 + SLACK):
        return None
    indices, free = [], []
    for loss, cost, tied in zip(losses, costs, _tied(len(losses), ties), strict=True):
        own = np.array([i for i in range(len(loss)) if i not in tied])
        own = own[_undominated(loss[own], cost[own])]
        indices.append(np.array([*own, *sorted(tied)]))
        free.append(len(own))
    starts = [n + np.searchsorted(k[n:], np.arange(k.max() + 1)) for n, k in zip(free, indices, strict=True)]
    moved = [
        Tie(tie.groups, np.column_stack([starts[g][tie.rows[:, i]] for i, g in enumerate(tie.groups)])) for tie in ties
    ]
    return indices, Groups(
        [loss[k] for loss, k in zip(losses, indices, strict=True)],
        [cost[k] for cost, k in zip(costs, indices, strict=True)],
        free,
        moved,
    )


def _total(values: Sequence[Array], picks: Sequence[int]) -> float:
    return float(sum(value[pick] for value, pick in zip(values, picks, strict=True)))


def _undominated(loss: Array, cost: Array) -> Array:
    """Return the indices of options that no other beats in both, by rising cost; of ties, rounding aside, the first."""
    order = np.lexsort((loss, cost))
    best, indices = np.inf, []
    for index in order:
        if not not_above(best, loss[index]):
            indices.append(index)
            best = loss[index]
    return np.array(indices)


def _milp(groups: Groups, budget: float, scale: float) -> list[int] | None:
    """Solve exactly, objective in units of `scale` and cost in units of the budget; None without a checked solution."""
    if budget <= 0:
        return None
    sizes = [len(loss) for loss in groups.losses]
    starts = np.cumsum([0, *sizes[:-1]])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    one_each = scipy.sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))))
    weights = np.concatenate(list(groups.costs)) / budget
    with silent():
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
    """Spend what is left: repeatedly the upgrade with the best loss saved for its cost.

    One free option for a dearer one, or a whole row of a tie for what its groups have.
    """
    picks, spent = list(picks), _total(groups.costs, picks)
    sizes = [len(loss) for loss in groups.losses]
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    free = place < np.asarray(groups.free)[group]
    rows = [(tie, row) for tie in groups.ties for row in range(len(tie.rows))]
    cost, loss = (
        np.concatenate([*per_group, *(tie.summed(per_group) for tie in groups.ties)])
        for per_group in (groups.costs, groups.losses)
    )
    while True:
        extra = cost - _held(groups.costs, groups.ties, picks, sizes)
        gain = _held(groups.losses, groups.ties, picks, sizes) - loss
        allowed = np.concatenate([free & (place > np.asarray(picks)[group]), np.ones(len(rows), bool)])
        allowed &= (gain > 0) & (spent + extra <= budget)
        if not allowed.any():
            return picks
        best = int(np.argmax(np.where(allowed, gain / np.maximum(extra, 1e-30), -1.0)))
        spent += float(extra[best])
        if best < len(place):
            picks[int(group[best])] = int(place[best])
        else:
            tie, row = rows[best - len(place)]
            for member, option in zip(tie.groups, tie.rows[row], strict=True):
                picks[member] = int(option)


def _held(values: Sequence[Array], ties: Sequence[Tie], picks: Sequence[int], sizes: Sequence[int]) -> Array:
    """Return what is had now in the place of every option, and then of every row.

    Summed in the order of `Tie.summed`: a row that is taken gains exactly nothing over itself.
    """
    now = np.array([value[pick] for value, pick in zip(values, picks, strict=True)])
    together = [np.full(len(tie.rows), sum(now[g] for g in tie.groups)) for tie in ties]
    return np.concatenate([np.repeat(now, sizes), *together])
