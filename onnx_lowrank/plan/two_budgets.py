"""Several budgets at once, by the surrogate of one: a weighted sum of all of them.

A choice of least loss within Σ wᵢ cᵢ / bᵢ ≤ Σ wᵢ that keeps every single budget is the best there is, for all choices
that keep them are among those it was taken from (surrogate duality: Glover, Operations Research 23(3), 1975). The
weights are found by bisection; where no weights do, the right side is lowered until both budgets are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from onnx_lowrank.plan.groups import Tie
from onnx_lowrank.plan.knapsack import SLACK, Solver
from onnx_lowrank.types import Array

Budget: TypeAlias = tuple[Sequence[Array], float]
"""Costs (options,) of every group, and what they may sum to."""
HALVINGS = 12
STEPS = 60
"""Lowerings of the right side, each by SHRINK: to .55 of it."""
SHRINK = 0.99


def within_all(
    losses: Sequence[Array], budgets: Sequence[Budget], solver: Solver, ties: Sequence[Tie] = ()
) -> list[int] | None:
    """Return one index a group, of the least summed loss seen that keeps one budget or two; None where none does.

    Raises ValueError for more budgets than two.
    """
    if len(budgets) == 1:
        return solver(losses, *budgets[0], ties)
    if len(budgets) > 2:
        raise ValueError(f"two budgets at most, not {len(budgets)}")
    if any(most <= 0 for _, most in budgets):
        return None
    low, high = 0.0, 1.0  # of the first budget: at 0 only the second counts
    for weight in (1.0, 0.0):
        picks = solver(losses, *budgets[0 if weight else 1], ties)
        if picks is None or _kept(picks, budgets):
            return picks
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        picks = solver(losses, _mixed(budgets, middle), 1.0, ties)
        if picks is None or _kept(picks, budgets):
            return picks
        low, high = (middle, high) if _spent(picks, budgets[0]) > 1 + SLACK else (low, middle)
    return _lowered(losses, budgets, solver, ties, (low + high) / 2)


def _lowered(
    losses: Sequence[Array], budgets: Sequence[Budget], solver: Solver, ties: Sequence[Tie], weight: float
) -> list[int] | None:
    most = SHRINK
    for _ in range(STEPS):
        picks = solver(losses, _mixed(budgets, weight), most, ties)
        if picks is None or _kept(picks, budgets):
            return picks
        most *= SHRINK
    return None


def _mixed(budgets: Sequence[Budget], weight: float) -> list[Array]:
    (first, most), (second, other) = budgets
    return [weight * a / most + (1 - weight) * b / other for a, b in zip(first, second, strict=True)]


def _spent(picks: Sequence[int], budget: Budget) -> float:
    costs, most = budget
    return float(sum(cost[pick] for cost, pick in zip(costs, picks, strict=True))) / most


def _kept(picks: Sequence[int], budgets: Sequence[Budget]) -> bool:
    return all(_spent(picks, budget) <= 1 + SLACK for budget in budgets)
