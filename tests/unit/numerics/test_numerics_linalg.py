"""Decompositions and roots: right, in order, with fixed signs, and exact at the small end."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.numerics import linalg

ARRAYS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))


def test_tails_are_summed_from_the_small_end():
    """On a spectrum from 1e4 to 1e-12 the total minus the head would be all rounding."""
    values = np.array([1e4, 1.0, 1e-4, 1e-12])
    assert linalg.tails(values)[-2:].tolist() == [1e-12, 0.0]
    assert linalg.tails(values)[2] == 1e-4 + 1e-12
    assert linalg.relative(np.zeros(3)).tolist() == [0.0] * 3


@given(ARRAYS)
def test_decompositions_are_right_and_their_signs_fixed(drawn: tuple[int, int, int]):
    rows, columns, seed = drawn
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    second = matrix @ matrix.T
    values, vectors = linalg.eigen(second)
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()
    np.testing.assert_allclose(vectors * values @ vectors.T, second, rtol=1e-9, atol=1e-9)
    singular, left = linalg.svd(matrix)
    np.testing.assert_allclose(singular**2, values[: len(singular)], rtol=1e-6, atol=1e-9)
    for columns_ in (vectors, left):
        assert (columns_[np.abs(columns_).argmax(0), np.arange(columns_.shape[1])] > 0).all()
    np.testing.assert_allclose(linalg.root(second) @ linalg.root(second), second, rtol=1e-6, atol=1e-9)
    root, inverse = linalg.roots(second, floor=1e-3)
    np.testing.assert_allclose(root @ inverse, np.eye(rows), rtol=1e-6, atol=1e-6)
    assert np.linalg.cond(root) <= 1e3**0.5 * (1 + 1e-6)


def test_roots_of_nothing_are_the_identity():
    root, inverse = linalg.roots(np.zeros((3, 3)))
    np.testing.assert_array_equal(root, np.eye(3))
    np.testing.assert_array_equal(inverse, np.eye(3))
