"""plan.signed: a slope counts only where both halves agree, shrunk; and the knapsack takes negative losses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan import Problem, agreed, knapsack, signed, solve
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option


def around(mean: float, spread: float = 0.1) -> np.ndarray:
    """Return 4 samples of one option with this mean and a standard error of spread / √3."""
    return mean + spread * np.array([[1.0], [-1.0], [1.0], [-1.0]])


ERROR = 0.1 / math.sqrt(3)


@pytest.mark.parametrize(
    ("first", "second", "term"),
    [
        (-1.0, -2.0, -1.0 + ERROR),
        (-2.0, -1.0, -1.0 + ERROR),
        (-1.0, -0.01, 0.0),
        (-1.0, 1.0, 0.0),
        (1.0, -1.0, 0.0),
        (0.0, -1.0, 0.0),
        (0.01, 0.01, 0.0),
    ],
)
def test_negative_terms_need_both_halves_and_are_shrunk(first: float, second: float, term: float):
    assert agreed(around(first), around(second)) == pytest.approx([term], abs=1e-12)


def test_the_error_is_that_of_the_half_that_is_taken():
    assert agreed(around(-1.0, 0.1), around(-2.0, 0.9)) == pytest.approx([-1.0 + ERROR])
    assert agreed(around(-1.0, 0.9), around(-2.0, 0.1)) == pytest.approx([-1.0 + 9 * ERROR])


def test_positive_terms_are_the_mean_of_all_samples_less_its_error():
    samples = np.concatenate([around(1.0), around(3.0)])
    error = samples.std(ddof=1) / math.sqrt(8)
    assert agreed(around(1.0), around(3.0)) == pytest.approx([2.0 - error])


def test_one_sample_a_half_says_nothing():
    assert agreed(np.full((1, 2), -5.0), np.full((9, 2), -5.0)).tolist() == [0.0, 0.0]
    assert agreed(np.full((2, 2), -5.0), np.full((9, 2), -5.0)).tolist() == [-5.0, -5.0]


HALVES = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).normal(size=(2, 6, 5)))


@given(HALVES, st.floats(-2, 2))
def test_a_term_is_never_beyond_what_the_halves_say(halves: np.ndarray, shift: float):
    one, other = halves + shift
    means = np.stack([one.mean(axis=0), other.mean(axis=0)])
    terms = agreed(one, other)
    assert np.all(terms == agreed(other, one)) or np.allclose(terms, agreed(other, one), atol=1e-12)
    assert np.all(terms[terms < 0] > means.max(axis=0)[terms < 0])
    assert np.all(terms[terms > 0] < means.mean(axis=0)[terms > 0])
    assert np.all(terms[means[0] * means[1] < 0] == 0)


def test_noise_alone_is_mostly_dropped():
    noise = np.random.default_rng(0).normal(size=(2, 50, 4000))
    falling = agreed(noise[0], noise[1]) < 0
    assert 0.01 < falling.mean() < 0.05, "P(z < -1)² = .025, where a single half's sign says .5"


def curve(site: str, losses: list[float]) -> Curve:
    others = [Option(Form("svd", (9 - i,)), Cost(90 - 10 * i), loss=loss) for i, loss in enumerate(losses)]
    return Curve(site, (Option(UNCHANGED, Cost(100)), *others))


def test_the_terms_are_added_to_the_losses_of_their_options():
    first, second = curve("a", [0.5, 2.0]), curve("b", [0.1, 0.2])
    slopes = np.tile([0.0, -1.0, 3.0], (4, 1))
    made, kept = signed([first, second], {"a": (slopes, slopes)})
    assert [o.loss for o in made.options] == [0.0, -0.5, 5.0]
    assert [o.ranks for o in made.options] == [o.ranks for o in first.options]
    assert kept is second
    plan = Problem((made, kept), {"a": "w", "b": "v"}, "parameters").best(200, "")
    assert [c.option.cost.parameters for c in plan.choices] == [90, 100]
    assert plan.loss == -0.5


def test_the_dense_option_never_changes():
    slopes = np.full((4, 2), -1.0)
    (made,) = signed([curve("a", [0.5])], {"a": (slopes, slopes)})
    assert [o.loss for o in made.options] == [0.0, -0.5]


@pytest.mark.parametrize("shape", [(4, 3), (4,), (2, 4, 2)])
def test_slopes_must_fit_the_curve(shape: tuple[int, ...]):
    good = np.zeros((4, 2))
    with pytest.raises(ValueError, match="slopes of 'a'"):
        signed([curve("a", [0.5])], {"a": (good, np.zeros(shape))})
    with pytest.raises(ValueError, match="slopes of 'a'"):
        signed([curve("a", [0.5])], {"a": (np.zeros(shape), good)})


GROUPS = st.lists(
    st.lists(st.tuples(st.integers(-20, 5).map(float), st.integers(0, 9).map(float)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("exact", [True, False])
@given(groups=GROUPS, budget=st.integers(1, 30))
def test_the_knapsack_takes_negative_losses(exact: bool, groups: list[list[tuple[float, float]]], budget: int):
    losses = [np.array([loss for loss, _ in group]) for group in groups]
    costs = [np.array([cost for _, cost in group]) for group in groups]
    every = list(itertools.product(*(range(len(group)) for group in groups)))
    fitting = [p for p in every if sum(c[i] for c, i in zip(costs, p, strict=True)) <= budget]
    with pytest.MonkeyPatch.context() as patch:
        if not exact:
            patch.setattr(knapsack, "_milp", lambda *a, **k: None)
        found = solve(losses, costs, budget)
        moved = solve([loss + 1000 for loss in losses], costs, budget)
    assert found == moved, "a constant per group changes nothing"
    if not fitting:
        assert found is None
        return
    assert tuple(found) in fitting
    if exact:
        least = min(sum(float(v[i]) for v, i in zip(losses, p, strict=True)) for p in fitting)
        assert sum(float(v[i]) for v, i in zip(losses, found, strict=True)) == least


def test_negative_losses_are_solved_exactly_where_the_relaxation_is_not_optimal():
    losses = [np.array([0.0, -61.0]), np.array([0.0, -50.0]), np.array([0.0, -50.0])]
    costs = [np.array([0.0, 6.0]), np.array([0.0, 5.0]), np.array([0.0, 5.0])]
    assert solve(losses, costs, 10) == [0, 1, 1]
