"""Laws of the intervals: they hold their estimate, cover what they promise, and never claim what nobody saw."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats

from onnx_lowrank.statistics import intervals as statistics
from onnx_lowrank.types import Interval

LEVELS = st.sampled_from([0.5, 0.8, 0.95, 0.99])
REALS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 6))
BITS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
PAIRS = st.lists(st.tuples(REALS, REALS), min_size=2, max_size=40)


def columns(pairs):
    first, second = np.array(pairs, np.float64).T
    return first, second


@given(st.one_of(BITS, PAIRS), LEVELS)
@settings(max_examples=80, deadline=None)
def test_paired_interval_holds_its_estimate_and_is_never_a_point_where_values_vary(pairs, level):
    first, second = columns(pairs)
    interval = statistics.paired_interval(first, second, level)
    assert interval.estimate == pytest.approx(np.mean(first - second), rel=1e-9, abs=1e-12)
    assert interval.low <= interval.estimate <= interval.high
    assert interval.level == level
    if first.any() or second.any() or statistics.binary(first, second):
        assert interval.width > 0


@given(st.one_of(BITS, PAIRS), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_the_samples_does_not_matter(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one = statistics.paired_interval(*columns(pairs), 0.95)
    other = statistics.paired_interval(*columns(shuffled), 0.95)
    # Sums in another order differ by rounding of values up to 1e6.
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-6, abs=1e-6)


@given(st.one_of(BITS, PAIRS))
@settings(max_examples=40, deadline=None)
def test_swapping_the_models_mirrors_the_interval(pairs):
    first, second = columns(pairs)
    one, other = statistics.paired_interval(first, second, 0.95), statistics.paired_interval(second, first, 0.95)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), rel=1e-9, abs=1e-9)


@given(BITS)
@settings(max_examples=15, deadline=None)
def test_a_higher_level_is_never_narrower(pairs):
    intervals = [statistics.paired_interval(*columns(pairs), level) for level in (0.5, 0.8, 0.95, 0.99)]
    assert all(low.width <= high.width + 1e-9 for low, high in itertools.pairwise(intervals))


@given(PAIRS, st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_a_change_of_unit_changes_nothing_else(pairs, unit):
    first, second = columns(pairs)
    assume(not statistics.binary(first, second))  # those have a unit
    assume(not statistics.binary(unit * first, unit * second))
    one, other = (statistics.paired_interval(u * first, u * second, 0.95) for u in (1.0, unit))
    scale = unit * max(np.abs(first).max(), np.abs(second).max(), 1e-9)
    assert (unit * one.low, unit * one.high) == pytest.approx((other.low, other.high), rel=1e-4, abs=1e-4 * scale)


@pytest.mark.parametrize("n", [1, 10, 300, 50_000])
def test_no_pair_that_differs_is_the_rule_of_three_not_a_point(n):
    interval = statistics.exact_difference(0, 0, n, 0.95)
    bound = 1 - 0.025 ** (1 / n)
    assert (interval.low, interval.high) == pytest.approx((-bound, bound), rel=1e-6)
    assert statistics.rare_share(n, 0.95) == pytest.approx(bound, rel=1e-9)
    assert n < 100 or bound == pytest.approx(3.69 / n, rel=0.01)


@pytest.mark.parametrize("lost", [1, 7, 40])
def test_pairs_of_one_kind_are_clopper_and_pearsons(lost):
    upper = statistics.exact_difference(lost, 0, 40, 0.95).high
    assert upper == pytest.approx(statistics.proportion_interval(lost, 40, 0.95).high, rel=1e-6)


def test_many_pairs_approach_the_normal_interval():
    interval = statistics.exact_difference(300, 200, 10_000, 0.95)
    half = 1.96 * math.sqrt(500 - 100**2 / 10_000) / 10_000
    assert interval.estimate == 0.01
    assert (interval.low, interval.high) == pytest.approx((0.01 - half, 0.01 + half), abs=2e-4)


def test_exact_difference_covers_by_enumeration():
    """Every outcome of 18 pairs, weighted by its probability: no sampling in this test."""
    n = 18
    outcomes = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    lost, gained = np.array(outcomes).T
    ends = np.array([(i.low, i.high) for i in (statistics.exact_difference(*o, n, 0.95) for o in outcomes)])
    ways = special.gammaln(n + 1) - sum(special.gammaln(k + 1) for k in (lost, gained, n - lost - gained))
    for p_lost in (0.01, 0.05, 0.1, 0.2, 0.4):
        for p_gained in (0.01, 0.03, 0.1, 0.3, 0.55):
            logs = (
                lost * np.log(p_lost) + gained * np.log(p_gained) + (n - lost - gained) * np.log1p(-p_lost - p_gained)
            )
            weights, truth = np.exp(ways + logs), p_lost - p_gained
            assert weights.sum() == pytest.approx(1)
            assert weights[truth > ends[:, 1]].sum() <= 0.027
            assert weights[truth < ends[:, 0]].sum() <= 0.027


@pytest.mark.parametrize(("right", "swapped", "n"), [(0.9, 0.02, 200), (0.7, 0.1, 60), (0.99, 0.005, 1000)])
def test_binary_coverage(right, swapped, n):
    generator = np.random.default_rng(7)
    interval_of = functools.cache(lambda lost, gained: statistics.exact_difference(lost, gained, n, 0.95))
    hits, runs = 0, 1000
    for _ in range(runs):
        first = generator.random(n) < right
        lost, gained = generator.random(n) < 2 * swapped, generator.random(n) < swapped
        second = np.where(first, ~lost, gained)
        truth = right * 2 * swapped - (1 - right) * swapped
        interval = interval_of(int((first & ~second).sum()), int((second & ~first).sum()))
        hits += interval.low <= truth <= interval.high
    assert hits / runs >= 0.93


CONTINUOUS = {
    "normal": (lambda g, n: g.normal(0.1, 1, n), 0.1, 20),
    "heavy tails": (lambda g, n: g.standard_t(3, n), 0.0, 50),
    "like a divergence": (lambda g, n: g.gamma(0.3, 1, n), 0.3, 50),
    "log-normal": (lambda g, n: g.lognormal(0, 1, n), math.exp(0.5), 200),
    "few samples differ": (lambda g, n: (g.random(n) < 0.05) * g.random(n), 0.025, 100),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_coverage(name):
    draw, truth, n = CONTINUOUS[name]
    generator = np.random.default_rng(11)
    intervals = [statistics.paired_interval(draw(generator, n), np.zeros(n), 0.95) for _ in range(1500)]
    assert np.mean([i.low <= truth <= i.high for i in intervals]) >= 0.93
    assert np.mean([truth > i.high for i in intervals]) <= 0.045  # the side that would call a loss lossless


def test_equal_values_bound_the_drop_by_their_range_not_by_nothing():
    values = np.array([0.2, 0.9, 0.4])
    interval = statistics.paired_interval(values, values, 0.95)
    share = 1 - 0.025 ** (1 / 3)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((-0.9 * share, 0.0, 0.9 * share))
    assert statistics.paired_interval(np.zeros(3), np.zeros(3), 0.95).width > 0  # zeros are 0/1 values: exact


def test_one_sample_or_no_number_bounds_nothing():
    for values in ([0.3], [0.3, math.nan], [1.5, math.inf]):
        interval = statistics.mean_interval(np.array(values), 0.95)
        assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_proportion_interval_is_clopper_and_pearsons():
    interval = statistics.proportion_interval(7, 10, 0.95)  # their table: .348 to .933
    assert (round(interval.low, 3), round(interval.high, 3)) == (0.348, 0.933)
    assert statistics.proportion_interval(0, 10, 0.95).low == 0
    assert statistics.proportion_interval(10, 10, 0.95).high == 1


@given(st.lists(st.integers(0, 1), min_size=1, max_size=50), LEVELS)
@settings(max_examples=30, deadline=None)
def test_single_interval_of_shares_stays_between_0_and_1(bits, level):
    interval = statistics.single_interval(np.array(bits, float), level)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_relative_interval_divides_by_the_original():
    generator = np.random.default_rng(0)
    first, second = generator.normal(5, 1, 400), generator.normal(5.2, 1, 400)
    interval = statistics.relative_interval(second, first, first, 0.95)
    assert interval.estimate == pytest.approx((second.mean() - first.mean()) / first.mean())
    assert interval.low < interval.estimate < interval.high
    bits = (generator.random((2, 100)) < 0.8).astype(float)
    plain, relative = statistics.paired_interval(*bits, 0.95), statistics.relative_interval(*bits, bits[0], 0.95)
    assert relative.high == pytest.approx(plain.high / bits[0].mean())


def test_relative_interval_covers_where_the_divisor_is_uncertain():
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        base = generator.gamma(2, 1, 80)
        other = base * 1.5 + generator.normal(0, 0.3, 80)  # the ratio is known far better than either mean
        interval = statistics.relative_interval(other, base, base, 0.95)
        hits += interval.low <= 0.5 <= interval.high
    assert hits / 400 >= 0.93


def test_resamples_are_the_same_for_the_same_seed_only():
    one, same, other = (list(statistics.resamples(20, 5, seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len(one) == 5
    assert all(indices.min() >= 0 and indices.max() < 20 for indices in one)


def test_aggregate_interval_is_the_bootstrap_error():
    replicates = np.random.default_rng(0).normal(0.7, 0.1, 300)
    interval = statistics.aggregate_interval(0.7, replicates, 1000, 0.95, 1.0)
    assert interval.high - 0.7 == pytest.approx(0.7 - interval.low)
    assert interval.width / 2 == pytest.approx(1.96 * 0.1, rel=0.15)


def test_the_bound_of_an_aggregate_is_lengthened_by_skewness_and_not_shortened():
    replicates = np.random.default_rng(0).gamma(4, 0.05, 300)  # skewness 1: as where one sample lost all
    high = statistics.aggregate_interval(0.0, replicates, 1000, 0.9, 0.1).high
    assert statistics.aggregate_bound(0.0, replicates, 1000, 0.05, 0.1) >= 3 * high
    assert high <= statistics.aggregate_bound(0.0, -replicates, 1000, 0.05, 0.1) <= 1.1 * high


def test_a_small_error_of_an_aggregate_is_not_all_that_may_have_been_missed():
    replicates = np.random.default_rng(0).normal(0, 1e-6, 300)
    assert statistics.aggregate_bound(0.0, replicates, 500, 0.05, 0.8) >= 0.8 * statistics.rare_share(500, 0.9)
    assert statistics.aggregate_bound(0.0, np.zeros(300), 500, 0.05, 0.8) == 0.8 * statistics.rare_share(500, 0.9)
    rounding = 1e-8 * np.random.default_rng(0).exponential(1, 300) ** 4  # as skewed as can be
    assert statistics.aggregate_bound(0.0, rounding, 500, 0.05, 0.8) == 0.8 * statistics.rare_share(500, 0.9)
    assert statistics.aggregate_bound(0.0, np.full(300, math.nan), 500, 0.05, 0.8) == math.inf


def test_the_bound_of_an_aggregate_has_no_cliff_in_skewness():
    """Resamples know a skewness to a seventh: what differs by less must not be judged by another measure."""
    shares = (np.arange(300) + 0.5) / 300
    wide = [stats.gamma.ppf(shares, 4 / skewness**2) for skewness in np.arange(0.1, 1.5, 0.05)]
    bounds = [statistics.aggregate_bound(0.0, 1e-3 * each / np.std(each), 2000, 0.05, 0.5) for each in wide]
    assert (np.abs(np.diff(bounds)) <= 0.1 * np.array(bounds[1:])).all()


@pytest.mark.parametrize("shape", [4, 11, 100])  # skewness 1, .6, .2
def test_the_bound_of_an_aggregate_grows_with_what_was_seen_from_what_is_allowed_for_the_unseen(shape):
    replicates = np.random.default_rng(0).gamma(shape, 1 / shape, 300)
    scales = np.geomspace(1e-7, 1e-2, 40)
    bounds = [statistics.aggregate_bound(0.0, scale * replicates, 2000, 0.05, 1.0) for scale in scales]
    assert (np.diff(bounds) >= 0).all()
    assert bounds[0] == statistics.rare_share(2000, 0.9)  # a tremble is as if nothing had changed
    assert bounds[5] <= 1.1 * bounds[0]


def test_aggregate_interval_leaves_out_what_is_no_number():
    replicates = np.concatenate([np.random.default_rng(0).normal(size=100), np.full(200, math.nan)])
    assert math.isfinite(statistics.aggregate_interval(0.0, replicates, 50, 0.95, 1.0).width)
    assert statistics.aggregate_interval(0.0, replicates[90:], 50, 0.95, 1.0).high == math.inf


def test_an_aggregate_that_never_changed_is_no_proof_of_no_drop():
    interval = statistics.aggregate_interval(0.0, np.zeros(300), 100, 0.95, 0.8)
    assert interval.high == pytest.approx(0.8 * statistics.rare_share(100, 0.95))


@pytest.mark.parametrize("n", [6, 7, 30, 101])
def test_median_interval_covers_exactly(n):
    interval = statistics.median_interval(np.arange(n), 0.95)
    below, above = int(interval.low), n - 1 - int(interval.high)
    assert below == above
    assert 2 * stats.binom.cdf(below, n, 0.5) <= 0.05 < 2 * stats.binom.cdf(below + 1, n, 0.5)
    assert interval.estimate == np.median(np.arange(n))


def test_median_interval_of_too_few_bounds_nothing():
    assert statistics.median_interval(np.arange(5), 0.95).low == -math.inf


def test_samples_needed():
    assert statistics.samples_needed(Interval(0.0, -0.021, 0.021), 420, 0.005) == 7409
    assert statistics.samples_needed(Interval(0.0, -0.021, 0.021), 420, 0.0) is None
    assert statistics.samples_needed(Interval(0.0, -math.inf, math.inf), 1, 0.1) is None
    assert statistics.samples_needed(Interval(0.0, -0.02, 0.02), 100, 0.01) == 400
