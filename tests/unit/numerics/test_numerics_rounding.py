"""What counts as equal, and which of equals is taken."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.numerics.rounding import SAME, first_least, not_above, rounded
from onnx_lowrank.schemes import SCHEMES, preference
from onnx_lowrank.sensitivity.decompose import undominated
from onnx_lowrank.types import DENSE, SHARED, Cost, Option

SIZES = st.floats(1e-30, 1e30) | st.just(0.0)


@given(st.lists(SIZES, min_size=1, max_size=9))
def test_rounded_values_are_close_in_order_and_stay_where_they_are(given_values: list[float]):
    values = np.sort(given_values)
    got = rounded(values)
    assert (np.abs(got - values) <= SAME / 2 * values).all()
    assert (np.diff(got) >= 0).all()
    np.testing.assert_array_equal(rounded(got), got)
    np.testing.assert_array_equal(rounded(-values), -got)


@given(SIZES, st.floats(-1e-9, 1e-9))
def test_noise_is_not_above(value: float, noise: float):
    noisy = float(rounded(np.array(value * (1 + noise))))
    assert not_above(noisy, float(rounded(np.array(value))))
    assert not not_above(value * (1 + 3 * SAME), value) or value == 0


def test_the_first_of_equals_is_the_least():
    assert first_least([3.0, 1.0 + 1e-9, 1.0], 1e-6) == 1
    assert first_least([3.0, 1.1, 1.0], 1e-6) == 2
    assert first_least([1.0], 0.0) == 0


def test_of_options_that_lose_the_same_the_cheapest_then_the_first_scheme_is_kept():
    def option(scheme: str, rank: int, parameters: int, macs: float, error: float) -> Option:
        return Option(scheme, (rank,), Cost(parameters, 4 * parameters, macs), error)

    cheap, dear = option("svd", 2, 10, 10, 0.1), option("svd", 4, 20, 20, 0.1 * (1 - 1e-8))
    first, last = option("kernel-first", 2, 30, 30, 0.01), option("kernel-last", 2, 30, 30, 0.01 * (1 - 1e-8))
    better = option("kernel-last", 2, 30, 30, 0.009)
    for options in ([cheap, dear, first, last], [last, first, dear, cheap]):
        assert undominated(options) == [first, cheap]
    assert undominated([better, first, cheap]) == undominated([first, cheap, better]) == [better, cheap]
    exact = option("svd", 6, 40, 40, 3e-15)
    assert undominated([exact, option("svd", 8, 50, 50, 1e-16), cheap]) == [exact, cheap]


def test_preference_names_parameters_macs_the_scheme_and_ranks():
    cost = Cost(10, 40, 5.0)
    names = [DENSE, *(scheme.name for scheme in SCHEMES), SHARED]
    options = [Option(name, (1,), cost) for name in names]
    keys = [preference(option) for option in options]
    assert keys == sorted(set(keys))
    assert preference(Option(SHARED, (9,), Cost(9, 40, 9.0))) < preference(options[0])
    assert preference(Option(SHARED, (9,), Cost(10, 40, 4.0))) < preference(options[0])
    assert preference(Option("svd", (1,), cost)) < preference(Option("svd", (2,), cost))
