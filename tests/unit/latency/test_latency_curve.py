"""Time over multiply-accumulates: laws of what is measured and of what lies between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.latency.interpolation import between, rising, spread

TIMES = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8)


@given(TIMES)
def test_rising_never_falls_and_keeps_the_mean(times):
    made = rising(times)
    assert len(made) == len(times)
    assert (np.diff(made) >= -1e-12).all()
    assert np.mean(made) == pytest.approx(np.mean(times), rel=1e-9)


@given(TIMES)
def test_rising_leaves_what_rises(times):
    assert rising(sorted(times)) == sorted(times)


@given(TIMES, st.randoms(use_true_random=False))
def test_between_never_falls_and_meets_what_was_measured(times, random):
    macs = [float(10 * (i + 1)) for i in range(len(times))]
    pairs = list(zip(macs, sorted(times), strict=True))
    random.shuffle(pairs)
    known, measured = [m for m, _ in pairs], [t for _, t in pairs]
    assert between(known, measured, known) == pytest.approx(measured, rel=1e-12)
    values = between(known, times, np.linspace(0.0, 10.0 * len(times) + 10, 50))
    assert (np.diff(values) >= -1e-12).all()
    assert min(times) - 1e-12 <= values.min() <= values.max() <= max(times) + 1e-12


def test_between_is_linear_in_the_macs():
    assert between([30.0, 10.0], [3.0, 1.0], [10, 20, 25, 30]) == pytest.approx([1, 2, 2.5, 3], rel=1e-12)


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=40), st.integers(2, 6))
def test_spread_holds_both_ends(macs, most):
    picks = spread(macs, most)
    assert len(picks) <= most
    assert {macs[i] for i in picks} >= {min(macs), max(macs)}


def test_spread_is_even_and_of_nothing_nothing():
    assert spread([8.0 * k for k in range(1, 11)], 4) == [0, 3, 6, 9]
    assert spread([]) == []
