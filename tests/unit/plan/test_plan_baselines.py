"""plan.baselines: the rules of others, against enumeration over their own objective."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan import Problem, alds, energy, paper_compact, paper_lossless
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.schemes import KernelFirst, KernelLast, Svd, spectrum
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option, Plan

Row = tuple[int, float, float]
"""(parameters, error, slope) of an option; the dense one has (100, 0, 0)."""


def problem_of(*sites: list[Row], resource: str = "parameters") -> Problem:
    curves = []
    for index, rows in enumerate(sites):
        options = [
            Option(Form("svd", (len(rows) - i,)), Cost(p, 4 * p, 7.0 * p), e, slope=g)
            for i, (p, e, g) in enumerate(rows)
        ]
        curves.append(Curve(f"s{index}", (Option(UNCHANGED, Cost(100, 400, 700.0)), *options)))
    return Problem(tuple(curves), {c.site: f"w_{c.site}" for c in curves}, resource)


def spent(plan: Plan, problem: Problem) -> float:
    return amount(plan.cost, problem.resource)


def picks(plan: Plan) -> list[int]:
    return [choice.option.cost.parameters for choice in plan.choices]


ROWS = st.lists(
    st.tuples(st.integers(1, 120), st.sampled_from([0.0, 0.01, 0.04, 0.1, 0.25, 0.5]), st.integers(-3, 3).map(float)),
    min_size=1,
    max_size=4,
)
SITES = st.lists(ROWS, min_size=1, max_size=3)


@given(SITES, st.integers(0, 360))
def test_energy_is_the_least_maximum_error_that_fits(sites: list[list[Row]], budget: int):
    problem = problem_of(*sites)
    every = itertools.product(*(curve.options for curve in problem.curves))
    fitting = [max(o.error for o in chosen) for chosen in every if sum(o.cost.parameters for o in chosen) <= budget]
    plan = energy(problem, budget)
    if not fitting:
        assert plan is None
        return
    assert plan is not None
    assert spent(plan, problem) <= budget
    threshold = max(choice.option.error for choice in plan.choices)
    assert threshold == min(fitting)
    for choice, curve in zip(plan.choices, problem.curves, strict=True):
        within = [o.cost.parameters for o in curve.options if o.error <= threshold]
        assert choice.option.cost.parameters == min(within), "the cheapest within the threshold, at every site"


@given(SITES, st.integers(0, 360), st.integers(0, 360))
def test_a_tighter_budget_never_lowers_the_threshold(sites: list[list[Row]], one: int, other: int):
    problem = problem_of(*sites)
    tight, loose = (energy(problem, budget) for budget in sorted((one, other)))
    if tight is not None:
        assert loose is not None
        assert max(c.option.error for c in loose.choices) <= max(c.option.error for c in tight.choices)
        assert spent(tight, problem) <= spent(loose, problem)


def test_energy_by_hand():
    problem = problem_of([(60, 0.1, 0), (30, 0.3, 0)], [(80, 0.1, 0), (20, 0.2, 0)])
    assert picks(energy(problem, 200)) == [100, 100]
    assert picks(energy(problem, 199)) == [60, 80]
    assert picks(energy(problem, 139)) == [60, 20]
    assert picks(energy(problem, 50)) == [30, 20]
    assert energy(problem, 49) is None
    assert energy(problem, 50).origin == "energy threshold"
    assert picks(energy(problem_of([(60, 0.1, 0), (30, 0.3, 0)], resource="macs"), 7 * 60)) == [60]


def test_alds_compares_the_first_singular_value_left_out():
    problem = problem_of([(60, 0.9, 0), (30, 0.9, 0)], [(80, 0.1, 0), (20, 0.1, 0)])  # ranks 2 and 1
    spectral = {("s0", "svd"): np.array([10.0, 1.0, 0.5]), ("s1", "svd"): np.array([2.0, 1.0])}
    assert picks(alds(problem, 199, spectral)) == [100, 80], "rank 2 of two singular values loses nothing"
    assert picks(alds(problem, 179, spectral)) == [60, 80], "0.05 there, against 0.5"
    assert picks(alds(problem, 139, spectral)) == [30, 80]
    assert picks(alds(problem, 109, spectral)) == [30, 20]
    assert alds(problem, 49, spectral) is None
    without = {("s0", "svd"): spectral["s0", "svd"]}  # s1 truncates no single matrix: its options are not taken
    assert picks(alds(problem, 179, without)) == [60, 100]
    assert alds(problem, 109, without) is None


def test_alds_takes_a_weight_of_zeros_for_lossless():
    problem = problem_of([(30, 0.0, 0)])
    assert picks(alds(problem, 100, {("s0", "svd"): np.zeros(3)})) == [30]


def test_a_spectrum_is_of_the_matrix_that_the_scheme_truncates():
    weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2))
    first, last = spectrum(KernelFirst(), weight), spectrum(KernelLast(), weight)
    assert first == pytest.approx(np.linalg.svd(weight.reshape(4, 12), compute_uv=False))
    assert last == pytest.approx(np.linalg.svd(weight.transpose(1, 0, 2, 3).reshape(3, 16), compute_uv=False))
    tall = weight[:, :2, 0, 0]
    assert spectrum(Svd(), tall) == pytest.approx(np.linalg.svd(tall, compute_uv=False))


@pytest.mark.parametrize("scheme", [KernelFirst(), KernelLast()])
def test_a_spectrum_explains_the_plain_errors_of_its_scheme(scheme: KernelFirst | KernelLast):
    weight = np.random.default_rng(1).normal(size=(5, 4, 3, 3))
    squares = spectrum(scheme, weight) ** 2
    factors = scheme.factor(weight, None, None, (3,))
    for rank in (1, 2, 3):
        assert factors.error((rank,)) == pytest.approx(squares[rank:].sum() / squares.sum())


def test_paper_lossless_takes_the_steepest_fall_in_range():
    rows = [(80, 0.01, -1.0), (60, 0.04, -2.0), (40, 0.09, -1.5), (20, 0.5, -9.0)]
    problem = problem_of(rows, [(80, 0.01, 0.1), (60, 0.04, 0.2)])
    assert picks(paper_lossless(problem, None, 0.3)) == [60, 100], "no fall, no change"
    assert picks(paper_lossless(problem, None, 0.1)) == [80, 100]
    assert picks(paper_lossless(problem, None, 1.0)) == [20, 100]
    assert picks(paper_lossless(problem, None, 0.05)) == [100, 100]
    assert paper_lossless(problem, None, 0.3).origin == "first order, lossless, gamma 0.3"


def test_paper_compact_takes_the_cheapest_that_does_not_rise():
    rows = [(80, 0.01, -1.0), (60, 0.04, 0.0), (40, 0.04, 0.5), (20, 0.5, -9.0)]
    problem = problem_of(rows, [(80, 0.01, 0.1)])
    assert picks(paper_compact(problem, 0.3)) == [60, 100]
    assert picks(paper_compact(problem, 0.1)) == [80, 100]
    assert picks(paper_compact(problem, 1.0)) == [20, 100]
    assert paper_compact(problem, 0.3).origin == "first order, compact, gamma 0.3"


def test_without_labels_lossless_goes_least_far_and_compact_furthest():
    problem = problem_of([(80, 0.01, 0.0), (60, 0.04, 0.0), (40, 0.5, 0.0)])
    assert picks(paper_lossless(problem, None, 0.3)) == [80]
    assert picks(paper_compact(problem, 0.3)) == [60]


def test_an_option_that_saves_no_parameters_is_not_the_papers():
    problem = problem_of([(100, 0.0, -5.0), (120, 0.0, -6.0)])
    assert picks(paper_lossless(problem, None, 1.0)) == [100]
    assert paper_lossless(problem, None, 1.0).factored == ()
    assert paper_compact(problem, 1.0).factored == ()


def test_paper_lossless_goes_on_to_the_budget_by_least_rise_for_what_it_saves():
    problem = problem_of([(80, 0.01, 2.0), (40, 0.04, 3.0)], [(90, 0.01, 0.5), (50, 0.04, 4.0)])
    # per parameter: 2/20, 3/60 = .05 and .5/10 = .05, 4/50; a tie goes to the larger saving
    assert picks(paper_lossless(problem, 199, 1.0)) == [40, 100]
    assert picks(paper_lossless(problem, 139, 1.0)) == [40, 90]
    assert picks(paper_lossless(problem, 129, 1.0)) == [40, 50]
    assert picks(paper_lossless(problem, 200, 1.0)) == [100, 100]
    assert paper_lossless(problem, 89, 1.0) is None
    assert paper_lossless(problem, 139, 0.1) is None, "only within the range"


@given(SITES, st.integers(0, 360), st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_the_papers_plans_keep_their_constraints(sites: list[list[Row]], budget: int, gamma: float):
    problem = problem_of(*sites)
    free, small = paper_lossless(problem, None, gamma), paper_compact(problem, gamma)
    assert free is not None
    for plan in (free, small):
        for choice in plan.factored:
            assert choice.option.slope <= 0
            assert choice.option.error <= gamma**2
            assert choice.option.cost.parameters < 100
    for least, cheap, curve in zip(free.choices, small.choices, problem.curves, strict=True):
        allowed = [o for o in curve.options[1:] if o.slope <= 0 and o.error <= gamma**2 and o.cost.parameters < 100]
        assert least.option.dense == cheap.option.dense == (not allowed)
        assert least.option.slope == min((o.slope for o in allowed), default=0.0)
        assert cheap.option.cost.parameters == min((o.cost.parameters for o in allowed), default=100)
    held = paper_lossless(problem, budget, gamma)
    reach = sum(
        min([100, *(o.cost.parameters for o in curve.options[1:] if o.error <= gamma**2)]) for curve in problem.curves
    )
    assert (held is None) == (reach > budget)
    if held is not None:
        assert spent(held, problem) <= budget
        assert all(choice.option.error <= gamma**2 for choice in held.factored)
        if spent(free, problem) <= budget:
            assert held.choices == free.choices
