"""Laws of what is certified: tests keep their level, bounds are inverted tests, and more evidence is never worse."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Generator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import Custom, Measured, Top, bound_of
from onnx_lowrank.plan import fixed_sequence
from onnx_lowrank.plan.sequence import candidates, interpolated, undominated
from onnx_lowrank.statistics import betting_bound, difference_bound, difference_p_value, share_bound
from onnx_lowrank.statistics.noninferiority import tango_statistic
from onnx_lowrank.types import Plan
from onnx_lowrank.validation.screening import Screened, expected_bounds


def size(n: int, gained: float, drop: float, alpha: float) -> float:
    """Return how often a true drop of exactly `drop` is called smaller: summed over all outcomes, exactly."""
    total, lost = 0.0, gained + drop
    longest = int(stats.binom.ppf(1 - 1e-9, n, lost + gained)) + 1
    for pairs in range(longest + 1):
        weight = stats.binom.pmf(pairs, n, lost + gained)
        most = bisect.bisect_left(
            range(pairs + 1), True, key=lambda b: difference_p_value(b, pairs - b, n, drop) > alpha
        )
        total += weight * float(stats.binom.cdf(most - 1, pairs, lost / (lost + gained)))
    return total


@pytest.mark.parametrize(
    ("n", "gained", "drop"),
    [(300, 0.0, 0.01), (300, 0.01, 0.01), (500, 0.002, 0.01), (200, 0.02, 0.02), (120, 0.005, 0.05), (60, 0.05, 0.05)],
)
def test_a_drop_as_large_as_allowed_is_certified_in_at_most_alpha_of_all_draws(n: int, gained: float, drop: float):
    """Exact, not simulated. The grid over the nuisance may cost 1e-4."""
    assert 0.2 * 0.05 < size(n, gained, drop, 0.05) <= 0.05 + 1e-4


@settings(max_examples=12)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(100, 3000), st.sampled_from([0.05, 0.01]))
def test_the_bound_of_a_difference_is_the_inverted_test(lost: int, gained: int, n: int, alpha: float):
    bound = difference_bound(lost, gained, n, alpha)
    assert (lost - gained) / n < bound < 1
    assert difference_p_value(lost, gained, n, bound) <= alpha
    assert difference_p_value(lost, gained, n, bound - 1e-4) > 0.9 * alpha
    assert difference_bound(lost + 1, gained, n, alpha) > bound


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.003, 0.01, 0.03]))
def test_where_counts_are_large_the_exact_test_is_the_score_test(lost: int, gained: int, drop: float):
    n = 4000
    score = float(stats.norm.cdf(tango_statistic(np.array(lost + 100), np.array(gained + 100), n, drop)))
    assert difference_p_value(lost + 100, gained + 100, n, drop) == pytest.approx(score, rel=0.25, abs=3e-3)


def test_nothing_that_changes_certifies_the_rule_of_three():
    assert difference_bound(0, 0, 299, 0.05) <= 0.01 < difference_bound(0, 0, 297, 0.05)
    assert share_bound(0, 299, 0.05) == pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-9)
    assert share_bound(5, 5, 0.05) == 1.0


DISTRIBUTIONS = {
    "rare losses": lambda rng, n: (rng.random(n) < 0.01) * 1.0 - 0.001 * rng.random(n),
    "noise": lambda rng, n: np.clip(0.3 * rng.standard_normal(n), -1, 1),
    "a coin": lambda rng, n: rng.choice([-1.0, 1.0], n),
    "always the same": lambda rng, n: np.full(n, 0.02),
}


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS))
def test_the_bet_is_lost_where_the_mean_is_as_high_as_it_says(name: str):
    """400 draws: a rate of .05 gives 20, and more than 34 with a chance of .001. Rare losses break any t interval."""
    mean = float(DISTRIBUTIONS[name](np.random.default_rng(99), 10**6).mean())
    rngs = [np.random.default_rng([7, i]) for i in range(400)]
    wrong = sum(betting_bound(DISTRIBUTIONS[name](rng, 150), -1, 1, 0.05, seed=1) < mean for rng in rngs)
    assert wrong <= 34


@given(st.lists(st.floats(0, 1), min_size=5, max_size=60), st.integers(0, 5))
def test_the_bound_of_bounded_values_is_above_their_mean_and_within_their_range(values: list[float], seed: int):
    x = np.array(values)
    bound = betting_bound(x, 0.0, 1.0, 0.05, seed=seed)
    assert x.mean() <= bound <= 1
    assert betting_bound(2 * x - 1, -1.0, 1.0, 0.05, seed=seed) == pytest.approx(2 * bound - 1, abs=1e-5)
    assert betting_bound(x, 0.0, 1.0, 0.2, seed=seed) <= bound + 1e-6


def test_samples_of_one_group_are_no_evidence_of_their_own():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 10)
    worse = np.repeat(rng.random(100) < 0.02, 10).astype(float)
    alone, together = (
        bound_of(Top(), *(Measured(v, 1000, np.zeros(0), g) for v in (np.ones(1000), 1 - worse)), Gate(), 0.01, seed=0)
        for g in (None, groups)
    )
    assert alone.value < 0.06 < together.value
    assert alone.exact
    assert together.exact


def test_what_promises_no_bounds_is_called_asymptotic():
    metric = Custom(lambda outputs, labels: 0.0, "own")
    found = Measured(np.random.default_rng(1).random(200) * 7, 200, np.zeros(0))
    assert not bound_of(metric, found, found, Gate(), 0.01, seed=0).exact
    metric.function.bounds = (0, 7)
    assert bound_of(metric, found, found, Gate(), 0.01, seed=0).exact


@pytest.mark.parametrize("drop", [0.0, 0.03])
def test_a_relative_drop_is_certified_no_more_easily_than_the_absolute_one(drop: float):
    """The divisor is at most 1, and known from samples only."""
    rng = np.random.default_rng(2)
    right = (rng.random(3000) < 0.8).astype(float)
    worse = right * (rng.random(3000) >= drop)
    found = [Measured(values, 3000, np.zeros(0)) for values in (right, worse)]
    absolute, relative = (
        bound_of(Top(), *found, Gate(max_drop=0.05, drop_type=kind), 0.05, seed=0).value
        for kind in ("absolute", "relative")
    )
    assert absolute / 0.82 < relative < 1.2 * absolute / 0.75


def _sent(search: Generator[Plan, bool, None], held: bool) -> Plan | None:
    try:
        return search.send(held)
    except StopIteration:
        return None


def test_a_sequence_ends_at_the_first_plan_that_is_not_certified():
    plans = [Plan((), str(i)) for i in range(5)]
    asked = []
    search = fixed_sequence(plans)
    plan = next(search)
    while plan is not None:
        asked.append(plan.origin)
        plan = _sent(search, plan.origin < "2")
    assert asked == ["0", "1", "2"]


@given(st.integers(2, 80), st.floats(0, 0.99), st.floats(0.03, 0.2))
def test_the_candidates_of_a_sequence_start_mild_and_lie_close_where_the_answer_is_expected(
    count: int, where: float, close: float
):
    divergences, costs = np.geomspace(1e-6, 10, count), np.geomspace(100, 5, count)
    expected = int(where * count)
    found = candidates(divergences.tolist(), costs.tolist(), expected, close)
    assert found == sorted(set(found))
    assert {expected, count - 1} <= set(found)
    assert divergences[found[0]] <= max(divergences[expected] / 512 * (1 + 1e-9), divergences[0])
    for one, other in itertools.pairwise(found):  # close, or there is no plan between them that would be
        if 1.6 * costs[expected] >= costs[one] and costs[other] >= 0.4 * costs[expected]:
            assert other == one + 1 or costs[other - 1] > (1 - close) * costs[one]


@given(st.integers(2, 80), st.floats(0, 0.99), st.floats(0.03, 0.2))
def test_candidates_go_on_below_where_the_answer_is_expected(count: int, where: float, close: float):
    """Up to 256 times the expected divergence, in steps of 12 % of the cost or single plans; then the smallest."""
    divergences, costs = np.geomspace(1e-6, 10, count), np.geomspace(100, 5, count)
    expected = int(where * count)
    found = candidates(divergences.tolist(), costs.tolist(), expected, close)
    for one, other in itertools.pairwise(found):
        if costs[one] <= costs[expected] and divergences[other] <= 256 * divergences[expected]:
            assert other == one + 1 or costs[other - 1] > (1 - max(close, 0.12)) * costs[one]
    assert all(divergences[i] <= 256 * divergences[expected] or i == count - 1 for i in found)


@given(st.integers(10, 10**6), st.floats(0.001, 0.4))
def test_no_bound_is_expected_that_no_samples_could_certify(n: int, alpha: float):
    seen = [Screened(256, divergence, changed, np.zeros(256)) for divergence, changed in ((0.0, 0.0), (1.0, 0.5))]
    bounds = expected_bounds(seen, n, alpha)
    assert bounds[0] == pytest.approx(share_bound(0, n, alpha), rel=1e-6)
    assert bounds[1] >= bounds[0]


def test_two_lost_decisions_say_little_where_a_prior_is_given():
    """Two of 250 changed and both are lost: without a prior the drop is expected to be as large as what changes."""
    seen = [Screened(250, 1e-4, 2 / 250, np.r_[np.ones(2), np.zeros(248)])]
    alone, (bound,) = expected_bounds(seen, 10**9, 0.05), expected_bounds(seen, 10**9, 0.05, prior=20.0)
    changed = 3 / 250
    assert alone[0] == pytest.approx(2 / 250, rel=1e-2)
    assert bound == pytest.approx((2 * 2 / 250 + 20 * 0.15 * changed) / 22, rel=1e-2)
    many = [Screened(25_000, 1e-4, 2 / 250, np.r_[np.ones(200), np.zeros(24_800)])]
    assert expected_bounds(many, 10**9, 0.05, prior=20.0)[0] == pytest.approx(2 / 250, rel=0.1)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30), st.floats(1e-6, 1))
def test_no_plan_is_tested_that_a_smaller_one_is_better_than(divergences: list[float], expected: float):
    kept = undominated(divergences, expected)
    assert kept == sorted(kept)
    assert kept
    for index in kept:  # but for rounding
        assert divergences[index] <= min(divergences[index:]) * (1 + 1e-6) + 1e-7 * max(divergences)
    assert divergences[kept[0]] <= min(divergences) * (1 + 1e-6) + 1e-7 * max(divergences)


def test_divergences_between_measured_plans_follow_the_predicted_loss():
    losses = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    found = interpolated(losses, [3, 1], [0.4, 2e-3])
    assert found == pytest.approx([2e-4, 2e-3, np.sqrt(2e-3 * 0.4), 0.4, 4.0], rel=1e-6)
