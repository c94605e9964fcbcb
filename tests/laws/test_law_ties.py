"""Laws of ties: noise in the losses changes no plan, and of plans that lose the same the documented one is taken."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan import Problem, interlayer
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option, Plan

LOSSES = [0.0, 0.1, 0.25, 1 / 3, 0.5, 2.0]
"""Few different losses: ties everywhere, in single weights and in sums."""
CURVES = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from(LOSSES)), min_size=1, max_size=5), min_size=1, max_size=6
)


def problem_of(drawn: list[list[tuple[int, float]]], **given: object) -> Problem:
    """Weights of 100 parameters; options of rank 1, 2, … with ten times the drawn costs, and the drawn losses."""
    curves = []
    for index, options in enumerate(drawn):
        made = [
            Option(Form("svd", (r + 1,)), Cost(10 * p, 40 * p, 10.0 * p), error=x, loss=x)
            for r, (p, x) in enumerate(options)
        ]
        curves.append(Curve(f"s{index}", (Option(UNCHANGED, Cost(100, 400, 100.0)), *made)))
    return Problem(tuple(curves), {curve.site: curve.site for curve in curves}, "parameters", **given)


def noisy(problem: Problem, seed: int, noise: float = 1e-12) -> Problem:
    rng = np.random.default_rng(seed)

    def moved(option: Option) -> Option:
        return replace(option, loss=option.loss * (1 + noise * rng.standard_normal()))

    return replace(problem, curves=tuple(replace(c, options=tuple(map(moved, c.options))) for c in problem.curves))


def picked(plan: Plan | None) -> list[tuple[str, tuple[int, ...]]] | None:
    return None if plan is None else [(c.option.scheme, c.option.ranks) for c in plan.choices]


@pytest.mark.parametrize("seed", range(60))
def test_noise_in_the_losses_changes_no_plan(seed: int):
    """Of such problems one in seven has another plan with noise where ties are left to the solver."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=rng.integers(1, 9))
    problem = problem_of([[(int(rng.integers(1, 10)), float(rng.choice(LOSSES))) for _ in range(n)] for n in sizes])
    budget = problem.smallest + rng.random() * (problem.dense - problem.smallest)
    for rule in (Problem.best, Problem.quick):
        wanted = picked(rule(problem, budget, "law"))
        assert all(picked(rule(noisy(problem, noise), budget, "law")) == wanted for noise in range(3))
    capped = replace(problem, caps=(("macs", 0.7 * problem.dense),))
    assert picked(capped.best(budget, "law")) == picked(noisy(capped, seed).best(budget, "law"))


@given(CURVES, st.floats(0, 1))
def test_no_weight_could_take_less_and_lose_no_more(drawn: list[list[tuple[int, float]]], share: float):
    problem = problem_of(drawn)
    budget = problem.smallest + share * (problem.dense - problem.smallest)
    plan = problem.best(budget, "law")
    for curve, choice in zip(problem.curves, plan.choices, strict=True):
        for option in curve.options:
            lower = (amount(option.cost, "parameters"), option.ranks) < (
                amount(choice.option.cost, "parameters"), choice.option.ranks,
            )  # fmt: skip
            assert option.loss > choice.option.loss or not lower


@given(CURVES, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_order_in_which_options_are_listed_decides_nothing_in_one_weight(drawn, share, random):
    problem = problem_of(drawn[:1])
    budget = problem.smallest + share * (problem.dense - problem.smallest)
    dense, *others = problem.curves[0].options
    random.shuffle(others)
    turned = replace(problem, curves=(replace(problem.curves[0], options=(dense, *others)),))
    assert picked(turned.best(budget, "law")) == picked(problem.best(budget, "law"))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_of_weights_with_the_same_options_the_first_in_the_graph_keeps_most(count: int):
    menu = [(1, 2.0), (3, 0.5), (5, 0.25), (8, 0.1)]
    for budget in range(10 * count, 100 * count, 10):
        taken = [c.option.cost.parameters for c in problem_of([menu] * count).best(budget, "law").choices]
        assert taken == sorted(taken, reverse=True)


def test_equal_in_the_budget_the_fewest_parameters_then_macs_then_the_schemes_decide():
    """In bytes all options cost the same and lose the same: only the rule tells them apart."""
    dense = Option(UNCHANGED, Cost(100, 400, 100.0))
    ways = [
        Option(Form("svd", (1,)), Cost(20, 80, 10.0), 0.5, 0.5),
        Option(Form("tucker-2", (1, 2)), Cost(20, 80, 10.0), 0.5, 0.5 * (1 + 1e-12)),
        Option(Form("kernel-last", (1,)), Cost(20, 80, 12.0), 0.5, 0.5 * (1 - 1e-12)),
        Option(Form("separable", (1,)), Cost(22, 80, 1.0), 0.5, 0.5),
    ]
    for number in range(len(ways)):
        for order in itertools.permutations(ways[number:]):
            problem = Problem((Curve("s", (dense, *order)),), {"s": "W"}, "bytes")
            assert problem.best(100, "law").choices[0].option == ways[number]


def test_terms_between_weights_choose_the_cheaper_of_two_that_lose_the_same():
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((12, 2))
    for seed in range(5):
        problem = problem_of([[(4, 0.5), (5, 0.5)], [(4, 0.25), (5, 0.25)]])
        noise = 1 + 1e-13 * np.random.default_rng(seed).standard_normal((2, 12, 3))
        tails = {f"s{i}": np.column_stack([np.zeros(12), columns[:, i], columns[:, i]]) * noise[i] for i in range(2)}
        assert picked(interlayer(problem, 110, tails)) == [("svd", (1,)), ("svd", (1,))]
