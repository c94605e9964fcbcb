"""Laws of the allocation: exact against enumeration, feasible or None, and more budget is never worse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan import Problem, knapsack, lossless, solve
from onnx_lowrank.plan.groups import Groups, Tie
from onnx_lowrank.plan.knapsack import lagrangian, least_cost, relaxed
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.plan.two_budgets import within_all
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option

NUMBERS = st.one_of(st.just(0.0), st.floats(1e-6, 10.0), st.integers(0, 5).map(float))
GROUP = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5)
GROUPS = st.lists(GROUP, min_size=1, max_size=4)


def arrays(groups: list[list[tuple[float, float]]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [np.array([p[0] for p in g]) for g in groups], [np.array([p[1] for p in g]) for g in groups]


def total(values: list[np.ndarray], picks: tuple[int, ...] | list[int]) -> float:
    return math.fsum(float(v[p]) for v, p in zip(values, picks, strict=True))


def enumerated(losses: list[np.ndarray], costs: list[np.ndarray], budget: float) -> float | None:
    every = itertools.product(*(range(len(loss)) for loss in losses))
    fitting = [total(losses, picks) for picks in every if total(costs, picks) <= budget * (1 + 1e-9)]
    return min(fitting, default=None)


@given(GROUPS, st.floats(0, 20))
def test_solve_is_exact_and_says_none_where_nothing_fits(groups: list[list[tuple[float, float]]], budget: float):
    losses, costs = arrays(groups)
    best = enumerated(losses, costs, budget)
    picks = solve(losses, costs, budget)
    if best is None:
        assert picks is None
        return
    assert picks is not None
    assert len(picks) == len(groups)
    assert total(costs, picks) <= budget * (1 + 1e-8)
    assert total(losses, picks) == pytest.approx(best, rel=2e-6, abs=1e-9)


@given(GROUPS, st.floats(0, 20))
def test_lagrangian_is_always_feasible(groups: list[list[tuple[float, float]]], budget: float):
    losses, costs = arrays(groups)
    if total(costs, [int(np.argmin(c)) for c in costs]) > budget:
        return
    kept = [knapsack._undominated(loss, cost) for loss, cost in zip(losses, costs, strict=True)]
    losses = [loss[k] for loss, k in zip(losses, kept, strict=True)]
    costs = [cost[k] for cost, k in zip(costs, kept, strict=True)]
    picks = lagrangian(Groups(losses, costs, [len(loss) for loss in losses]), budget)
    assert total(costs, picks) <= budget * (1 + 1e-9) + 1e-12
    best = enumerated(losses, costs, budget)
    assert total(losses, picks) >= best - 1e-9


@given(GROUPS, st.floats(0, 20))
def test_without_an_exact_solver_the_answer_is_feasible(groups: list[list[tuple[float, float]]], budget: float):
    losses, costs = arrays(groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "_milp", lambda *a, **k: None)
        picks = solve(losses, costs, budget)
    assert (picks is None) == (total(costs, [int(np.argmin(c)) for c in costs]) > budget * (1 + 1e-9))
    if picks is not None:
        assert total(costs, picks) <= budget * (1 + 1e-8) + 1e-12


@given(GROUPS, st.lists(st.floats(0, 20), min_size=2, max_size=4))
def test_more_budget_is_never_worse(groups: list[list[tuple[float, float]]], budgets: list[float]):
    losses, costs = arrays(groups)
    found = [picks for budget in sorted(budgets) if (picks := solve(losses, costs, budget)) is not None]
    for tight, loose in itertools.pairwise(found):
        assert total(losses, loose) <= total(losses, tight) * (1 + 2e-6) + 1e-9


def test_ten_thousandfold_scales_do_not_blur_the_choice():
    """HiGHS works with absolute tolerances: tiny losses and huge costs must still be told apart."""
    losses = [np.array([0.0, 1e-9, 5e-9]), np.array([0.0, 2e-9, 4e-9])]
    costs = [np.array([4e9, 3e9, 1e9]), np.array([4e9, 2e9, 1e9])]
    assert solve(losses, costs, 5e9) == [1, 1]
    assert solve(losses, costs, 5e9 - 1e3) == [1, 2]


CURVES = st.lists(
    st.lists(st.tuples(st.integers(1, 99), st.floats(1e-6, 1.0), st.floats(1e-6, 5.0)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def problem_of(drawn: list[list[tuple[int, float, float]]]) -> Problem:
    """Sites of 100 parameters; options of rank 1, 2, … with the drawn costs, errors and losses."""
    curves = []
    for index, options in enumerate(drawn):
        dense = Option(UNCHANGED, Cost(100, 400, 1000.0))
        others = [Option(Form("svd", (r + 1,)), Cost(p, 4 * p, 10.0 * p), e, x) for r, (p, e, x) in enumerate(options)]
        curves.append(Curve(f"s{index}", (dense, *others)))
    return Problem(tuple(curves), {c.site: f"w{c.site}" for c in curves}, "parameters")


@given(CURVES, st.floats(0, 1), st.floats(0, 1))
def test_plans_stay_within_budget_and_more_budget_predicts_no_worse(
    drawn: list[list[tuple[int, float, float]]], one: float, other: float
):
    problem = problem_of(drawn)
    span = problem.dense - problem.smallest
    tight, loose = (problem.smallest + share * span for share in sorted((one, other)))
    plans = [problem.best(budget, "law") for budget in (tight, loose)]
    assert all(plan is not None for plan in plans)
    assert plans[1].loss <= plans[0].loss * (1 + 2e-6) + 1e-9
    for budget in (tight, loose):
        for plan in lossless(problem, budget):
            assert amount(plan.cost, "parameters") <= budget * (1 + 1e-8)
            assert plan.factored, "a plan that changes nothing is not worth measuring"
    assert problem.best(problem.smallest - 1, "law") is None
    assert problem.best(problem.dense, "law").loss == 0.0


@st.composite
def tied_groups(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray], list[Tie]]:
    """Two to four groups, the first few of them tied by options beside their own, in any places."""
    groups = draw(st.lists(GROUP, min_size=2, max_size=4))
    members = draw(st.integers(2, len(groups)))
    rows = draw(st.integers(1, 3))
    columns = []
    for index in range(members):
        free = len(groups[index])
        groups[index] = [*groups[index], *draw(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=rows, max_size=rows))]
        order = draw(st.permutations(range(len(groups[index]))))
        groups[index] = [groups[index][old] for old in order]
        columns.append([order.index(free + row) for row in range(rows)])
    return (*arrays(groups), [Tie(tuple(range(members)), np.array(columns).T)])


def allowed(tie: Tie, picks: tuple[int, ...] | list[int]) -> bool:
    tied = [set(column) for column in tie.rows.T.tolist()]
    own = all(picks[g] not in taken for g, taken in zip(tie.groups, tied, strict=True))
    return own or [picks[g] for g in tie.groups] in tie.rows.tolist()


def every_choice(losses: list[np.ndarray], ties: list[Tie]) -> list[tuple[int, ...]]:
    every = itertools.product(*(range(len(loss)) for loss in losses))
    return [picks for picks in every if all(allowed(tie, picks) for tie in ties)]


@given(tied_groups(), st.floats(0, 20))
def test_tied_options_are_taken_together_and_the_choice_is_exact(
    drawn: tuple[list[np.ndarray], list[np.ndarray], list[Tie]], budget: float
):
    losses, costs, ties = drawn
    choices = every_choice(losses, ties)
    assert least_cost(costs, ties) == pytest.approx(min(total(costs, picks) for picks in choices), abs=1e-9)
    fitting = [total(losses, picks) for picks in choices if total(costs, picks) <= budget * (1 + 1e-9)]
    for solver in (solve, relaxed):
        picks = solver(losses, costs, budget, ties)
        assert (picks is None) == (not fitting)
        if picks is not None:
            assert all(allowed(tie, picks) for tie in ties)
            assert total(costs, picks) <= budget * (1 + 1e-8) + 1e-12
            if solver is solve:
                assert total(losses, picks) == pytest.approx(min(fitting), rel=2e-6, abs=1e-9)


@pytest.mark.parametrize("budget", [0.0, 3.0])
def test_of_no_groups_nothing_is_chosen(budget: float):
    assert solve([], [], budget) == relaxed([], [], budget) == []


def test_a_thousand_groups_in_threes_are_solved_within_the_relaxations_gap():
    rng, most = np.random.default_rng(0), 16
    losses, costs, ties = [], [], []
    for group in range(999):
        steps = np.arange(1, most + 1)
        own = rng.uniform(0.5, 2) * np.exp(-2 * steps / 6)
        tied = rng.uniform(0.5, 2) * np.exp(-2 * steps / 8)
        losses.append(np.concatenate([[0.0], own, tied]))
        costs.append(np.concatenate([[64.0], 4.0 * steps, (4.0 if group % 3 == 0 else 2.0) * steps]))
        if group % 3 == 2:
            ties.append(
                Tie((group - 2, group - 1, group), np.repeat(np.arange(most + 1, 2 * most + 1)[:, None], 3, axis=1))
            )
    budget = 0.4 * 64 * 999
    exact, near = solve(losses, costs, budget, ties), relaxed(losses, costs, budget, ties)
    assert exact is not None
    assert near is not None
    assert all(allowed(tie, picks) for tie in ties for picks in (exact, near))
    assert total(losses, exact) <= total(losses, near) <= 1.001 * total(losses, exact)
    assert any(exact[tie.groups[0]] > most for tie in ties)
    assert any(exact[tie.groups[0]] <= most for tie in ties)


@given(GROUPS, st.floats(0.1, 20), st.floats(0.1, 20), st.integers(0, 2**32 - 1))
def test_two_budgets_are_both_kept_and_nothing_is_better_than_the_best(
    groups: list[list[tuple[float, float]]], first: float, second: float, seed: int
):
    losses, costs = arrays(groups)
    rng = np.random.default_rng(seed)
    others = [rng.uniform(0, 5, len(cost)) for cost in costs]
    picks = within_all(losses, [(costs, first), (others, second)], solve)
    every = itertools.product(*(range(len(loss)) for loss in losses))
    fits = [p for p in every if total(costs, p) <= first * (1 + 1e-9) and total(others, p) <= second * (1 + 1e-9)]
    if not fits:
        assert picks is None
    if picks is not None:
        assert tuple(picks) in fits
        assert total(losses, picks) >= min(total(losses, p) for p in fits) - 1e-9


def test_two_budgets_that_both_bind():
    """Each alone allows a choice of less loss; together only one mix is left, and it is found."""
    losses = [np.array([0.0, 1.0, 1.5, 4.0])] * 4
    first, second = [np.array([4.0, 1.0, 3.0, 0.5])] * 4, [np.array([4.0, 3.0, 1.0, 0.5])] * 4
    picks = within_all(losses, [(first, 8.0), (second, 8.0)], solve)
    assert sorted(picks) == [1, 1, 2, 2]
    assert within_all(losses, [(first, 8.0), (second, 1.0)], solve) is None


def test_two_thousand_options_and_two_budgets_come_close_to_the_relaxation():
    """No mixture of options is better by more than 2 %: what the linear relaxation says."""
    rng = np.random.default_rng(3)
    losses = [np.sort(rng.exponential(size=40))[::-1] * rng.uniform(0.1, 3) for _ in range(50)]
    costs = [np.linspace(0, 1, 40) * rng.uniform(0.5, 2) for _ in losses]
    others = [cost**1.5 * rng.uniform(0.3, 3) for cost in costs]
    budgets = [(costs, 0.4 * sum(c[-1] for c in costs)), (others, 0.4 * sum(c[-1] for c in others))]
    picks = within_all(losses, budgets, solve)
    sizes = np.repeat(np.arange(50), 40)
    linear = scipy.optimize.linprog(
        np.concatenate(losses), np.array([np.concatenate(c) for c, _ in budgets]), [b for _, b in budgets],
        (sizes == np.arange(50)[:, None]).astype(float), np.ones(50),
    )  # fmt: skip
    assert total(losses, picks) <= 1.02 * linear.fun
