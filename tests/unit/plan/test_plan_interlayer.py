"""plan.interlayer: the joint rise against enumeration, and never worse than the knapsack that it starts from."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.plan import Problem, interlayer, joint_rise
from onnx_lowrank.types import UNCHANGED, Array, Cost, Curve, Form, Option

module = importlib.import_module("onnx_lowrank.plan.interlayer")  # the package exports the function of that name


def problem_of(tails: dict[str, Array], costs: dict[str, list[int]]) -> Problem:
    """Sites whose losses are what their tails say alone, ½ E t²."""
    curves = []
    for site, t in tails.items():
        losses = (t**2).mean(axis=0) / 2
        options = [Option(UNCHANGED, Cost(costs[site][0]))]
        options += [
            Option(Form("svd", (i,)), Cost(costs[site][i]), loss=float(losses[i])) for i in range(1, t.shape[1])
        ]
        curves.append(Curve(site, tuple(options)))
    return Problem(tuple(curves), dict.fromkeys(tails, "w"), "parameters")


def drawn(seed: int, sites: int, options: int, samples: int) -> tuple[Problem, dict[str, Array]]:
    """Tails that grow with the option and share a direction over samples, so cross terms matter, in both signs."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(samples, 1))
    tails, costs = {}, {}
    for index in range(sites):
        t = rng.normal(size=(samples, options)) * 0.5 + common * rng.normal(size=options)
        t = np.cumsum(t, axis=1)
        t[:, 0] = 0
        tails[f"s{index}"] = t
        costs[f"s{index}"] = [100, *sorted((int(c) for c in rng.integers(1, 95, options - 1)), reverse=True)]
    return problem_of(tails, costs), tails


def exact(problem: Problem, tails: dict[str, Array], budget: float) -> float:
    every = itertools.product(*(range(len(curve.options)) for curve in problem.curves))
    plans = [problem.plan(picks, "") for picks in every]
    return min(joint_rise(problem, plan, tails) for plan in plans if plan.cost.parameters <= budget)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 5), st.floats(0, 1))
def test_never_worse_than_the_start_and_within_the_budget(seed: int, sites: int, options: int, share: float):
    problem, tails = drawn(seed, sites, options, 12)
    budget = problem.smallest + share * (problem.dense - problem.smallest)
    start, plan = problem.best(budget, "start"), interlayer(problem, budget, tails)
    assert start is not None
    assert plan is not None
    assert plan.cost.parameters <= budget * (1 + 1e-9)
    rise = joint_rise(problem, plan, tails)
    assert rise <= joint_rise(problem, start, tails) * (1 + 1e-12)
    assert rise >= exact(problem, tails, budget * (1 + 1e-9)) * (1 - 1e-12)
    assert interlayer(problem, problem.smallest - 1, tails) is None


@pytest.mark.parametrize(("switched_off", "closed"), [("", 0.5), ("ROUNDS", 0.2), ("SWEEPS", 0.2)])
def test_it_closes_much_of_the_gap_to_the_optimum(switched_off: str, closed: float, monkeypatch: pytest.MonkeyPatch):
    """Summed over problems where cross terms matter; the rounds alone and the descent alone are of use, too."""
    if switched_off:
        monkeypatch.setattr(module, switched_off, 0)
    started, found, best = 0.0, 0.0, 0.0
    for seed in range(12):
        problem, tails = drawn(seed, 4, 5, 40)
        budget = (problem.smallest + problem.dense) / 2
        started += joint_rise(problem, problem.best(budget, ""), tails)
        found += joint_rise(problem, interlayer(problem, budget, tails), tails)
        best += exact(problem, tails, budget)
    assert best < 0.7 * started
    assert started - found >= closed * (started - best)


def test_two_truncations_that_cancel_are_taken_together():
    step = np.array([1.0, -1.0, 2.0, -2.0])
    zero = np.zeros(4)
    tails = {
        "a": np.stack([zero, step], 1),
        "b": np.stack([zero, -step], 1),
        "c": np.stack([zero, step * 0.9], 1),
    }
    problem = problem_of(tails, {"a": [100, 50], "b": [100, 50], "c": [100, 50]})
    plan = interlayer(problem, 200, tails)
    assert plan.origin == "least joint rise, with inter-layer terms"
    assert [c.option.dense for c in plan.choices].count(False) == 2
    assert not plan.choices[1].option.dense, "b is the one that cancels"
    assert joint_rise(problem, plan, tails) <= 0.1**2 * np.mean(step**2) / 2 + 1e-9


def test_the_joint_rise_is_half_the_mean_square_of_the_sum():
    tails = {"a": np.array([[0.0, 1.0], [0.0, 3.0]]), "b": np.array([[0.0, 2.0], [0.0, -1.0]])}
    problem = problem_of(tails, {"a": [9, 1], "b": [9, 1]})
    assert joint_rise(problem, problem.plan([1, 1], ""), tails) == (3**2 + 2**2) / 4
    assert joint_rise(problem, problem.plan([1, 0], ""), tails) == (1 + 9) / 4
    assert joint_rise(problem, problem.plan([0, 0], ""), tails) == 0.0


def test_independent_sites_keep_the_knapsacks_choice():
    tails = {"a": np.array([[0.0, 1.0], [0.0, 0.0]]), "b": np.array([[0.0, 0.0], [0.0, 2.0]])}
    problem = problem_of(tails, {"a": [9, 1], "b": [9, 1]})
    assert interlayer(problem, 10, tails).choices == problem.best(10, "").choices
    assert interlayer(problem, 18, tails).factored == ()


def test_tails_must_fit_the_curves():
    tails = {"a": np.zeros((3, 2)), "b": np.zeros((3, 2))}
    problem = problem_of(tails, {"a": [9, 1], "b": [9, 1]})
    for wrong in (np.zeros((3, 3)), np.zeros((2, 2)), np.zeros(2)):
        with pytest.raises(ValueError, match="tails of 'b'"):
            interlayer(problem, 18, {**tails, "b": wrong})
    with pytest.raises(ValueError, match="tails of 'a'"):
        interlayer(problem, 18, {"a": np.zeros((0, 2)), "b": np.zeros((0, 2))})
    with pytest.raises(KeyError):
        interlayer(problem, 18, {"a": tails["a"]})
