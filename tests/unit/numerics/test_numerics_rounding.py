"""What counts as equal, and which of equals is taken."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.numerics.rounding import SAME, first_least, not_above, rounded

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
