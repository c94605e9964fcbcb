"""A sequence without gaps: where a smaller plan looks better, milder ones stay behind it all the same."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan.sequence import GAP, NEAR, undominated, without_gaps

COSTS = [100.0, 80.0, 70.0, 60.0, 50.0, 45.0, 40.0]


def test_plans_between_are_kept_where_costs_differ_by_more_than_a_step():
    divergences = [0.1, 0.9, 0.8, 1.0, 1.1, 0.85, 0.7]
    chosen = undominated(divergences, 1.0)
    assert chosen == [0, 6]
    assert without_gaps(chosen, divergences, COSTS, 1.0) == [0, 2, 3, 4, 5, 6]


def test_what_diverges_far_more_than_expected_is_no_step():
    divergences = [0.1, 9.0, 8.0, 9.0, 9.0, 9.0, 0.7]
    assert without_gaps([0, 6], divergences, COSTS, 1.0) == [0, 6]


def test_close_neighbours_stay_as_they_are():
    assert without_gaps([0, 1, 2], [0.1, 0.2, 0.3], COSTS[:3], 1.0) == [0, 1, 2]
    assert without_gaps([3], [0.1] * 7, COSTS, 1.0) == [3]


@given(st.lists(st.floats(0.01, 2.9), min_size=2, max_size=40), st.integers(0, 10**6))
def test_no_gap_is_left_that_a_plan_could_fill(divergences, seed):
    costs = [1000 * 0.93**i for i in range(len(divergences))]
    chosen = undominated(divergences, 1.0)
    found = without_gaps(chosen, divergences, costs, 1.0)
    assert set(chosen) <= set(found)
    assert max(divergences[i] for i in found) <= max(NEAR[1], max(divergences[i] for i in chosen))
    assert all(costs[a] <= GAP**3 * costs[b] for a, b in itertools.pairwise(found))
