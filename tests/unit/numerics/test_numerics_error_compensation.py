"""Rounding with errors made up for: on the grid, as the textbook's loop does it, and better in the metric."""

from __future__ import annotations

import numpy as np
import pytest
from builders import correlated, normal
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.numerics.error_compensation import DAMPING, Eliminated, compensated
from onnx_lowrank.types import INT2, INT4, NumberFormat
from onnx_lowrank.weights.integer_grid import Grid


def rounded(weight: np.ndarray, A: np.ndarray | None, B: np.ndarray | None, number: NumberFormat = INT4) -> np.ndarray:
    grid = Grid.symmetric(number)

    def scales(numbers: np.ndarray) -> np.ndarray:
        return np.asarray(grid.quantised(numbers.T).scale, float)

    ends = Eliminated.of(A), Eliminated.of(B)
    return compensated(weight[..., None], *ends, scales, number.low, number.high, number.block)[..., 0]


def moment(width: int, seed: int) -> np.ndarray:
    rows = correlated(4 * width, width, seed)
    return rows.T @ rows


def loss(error: np.ndarray, A: np.ndarray, B: np.ndarray) -> float:
    return float(((B @ error @ A) * error).sum())


FEW = st.sampled_from([INT4, INT2])


@given(st.integers(1, 90), st.integers(1, 70), st.integers(0, 10**6), FEW)
def test_without_moments_it_rounds_to_the_nearest(out, inner, seed, number):
    weight = normal((out, inner), seed).astype(np.float32).astype(float)
    np.testing.assert_array_equal(rounded(weight, None, None, number), Grid.symmetric(number).seen(weight))


@given(st.integers(1, 90), st.integers(1, 70), st.integers(0, 10**6), FEW)
def test_what_comes_out_stands_on_the_grid_and_is_recovered(out, inner, seed, number):
    weight = normal((out, inner), seed)
    made = rounded(weight, moment(inner, seed), moment(out, seed + 1), number)
    found = Grid.symmetric(number).recovered(np.asarray(made, np.float32))
    assert number.low <= found.q.min()
    assert found.q.max() <= number.high
    wide = np.repeat(found.scale.reshape(out, -1), number.block, axis=1)[:, :inner]
    np.testing.assert_array_equal(np.asarray(found.q * wide, np.float32), np.asarray(made, np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_both_moments_leave_less_than_one_and_one_less_than_none(seed: int):
    weight, A, B = normal((150, 96), seed), moment(96, seed + 7), moment(150, seed + 9)
    left = [loss(rounded(weight, *pair) - weight, A, B) for pair in ((None, None), (A, None), (None, B), (A, B))]
    assert left[1] < 0.7 * left[0]
    assert left[2] < 0.9 * left[0]
    assert left[3] < 0.9 * min(left[1], left[2])


def test_errors_go_where_the_closed_form_sends_them():
    """One output: after input 0 is rounded, the others are what minimises (w − ŵ) A (w − ŵ)ᵀ with that one fixed."""
    weight, A = normal((1, 3), 1), moment(3, 2)
    damped = A + DAMPING * A.trace() / 3 * np.eye(3)
    seen: list[np.ndarray] = []

    def watched(numbers: np.ndarray) -> np.ndarray:
        seen.append(numbers.copy())
        return np.full(numbers.shape[1], 0.5)

    made = compensated(weight[..., None], Eliminated.of(A), None, watched, -7, 7, 1)[..., 0]
    error = weight[0, 0] - made[0, 0]
    rest = weight[0, 1:] + np.linalg.solve(damped[1:, 1:], damped[1:, 0]) * error
    np.testing.assert_allclose(seen[1][0, 0], rest[0], rtol=1e-9)


def test_a_moment_of_nothing_makes_nothing_up():
    assert Eliminated.of(None) is None
    assert Eliminated.of(np.zeros((3, 3))) is None
    assert Eliminated.of(np.full((2, 2), np.nan)) is None


def test_outputs_of_several_blocks_see_what_the_first_ones_lost():
    weight, B = np.tile(normal((1, 8), 3), (130, 1)), np.ones((130, 130)) + 0.1 * np.eye(130)
    plain, made = Grid.symmetric(INT4).seen(weight), rounded(weight, None, B)
    np.testing.assert_array_equal(made[:64], plain[:64])
    assert not np.array_equal(made[64:], plain[64:])
    assert np.abs((made - weight).sum(0)).max() < np.abs((plain - weight).sum(0)).max()
