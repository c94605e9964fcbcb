"""Law: moments are a monoid. What is collected at once, in batches or in shards is the same."""

from __future__ import annotations

from functools import reduce
from operator import add, itemgetter

import numpy as np
from builders import build, convnet, feeds_of, moments_of, node, normal, value, weight
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.types import Moments


def moments(seed: int, count: int, room: int) -> Moments:
    rng = np.random.default_rng(seed)
    keys = rng.random(count)
    x = rng.integers(-9, 10, (count, 3, 2)).astype(float)  # whole numbers: sums are exact
    picks = np.argsort(keys)[:room]
    flat = x.reshape(count, -1)
    return Moments(flat.T @ flat, flat.T @ flat, x[picks], keys[picks], count, 1, room)


def same(one: Moments, other: Moments) -> None:
    for name in ("A", "C"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    first, second = np.argsort(one.keys), np.argsort(other.keys)
    np.testing.assert_array_equal(one.keys[first], other.keys[second])
    np.testing.assert_array_equal(one.patches[first], other.patches[second])
    assert (one.positions, one.samples, one.room) == (other.positions, other.samples, other.room)


PARTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 12)), min_size=3, max_size=3, unique_by=itemgetter(0))
"""Seed and count; of one seed the keys would be the same, and which of two equal keys is kept is not said."""


@given(PARTS, st.integers(1, 15))
def test_addition_is_associative_and_commutative(parts: list[tuple[int, int]], room: int):
    a, b, c = (moments(seed, count, room) for seed, count in parts)
    same((a + b) + c, a + (b + c))
    same(a + b, b + a)


@given(st.integers(0, 10**6), st.integers(1, 8))
def test_merged_patches_are_those_of_the_smallest_keys(seed: int, room: int):
    parts = [moments(seed + i, 10, room) for i in range(3)]
    merged = reduce(add, parts)
    smallest = np.sort(np.concatenate([p.keys for p in parts]))[:room]
    np.testing.assert_array_equal(np.sort(merged.keys), smallest)
    assert len(merged.patches) == room


def two_layers() -> object:
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "one"),
        node("Tanh", ["h"], ["t"]),
        node("Gemm", ["t", "V"], ["y"], "two", transB=1, alpha=0.5),
    ]
    weights = {"W": weight((8, 6), 1), "V": weight((5, 6), 2)}
    return build(nodes, [value("x", ["n", 8])], [value("y", ["n", 5])], weights)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_moments_of_all_samples_are_the_sum_of_those_of_the_parts(first: int, second: int, batch: int):
    for model, feeds in (
        (two_layers(), feeds_of(normal([first + second, 8], 3))),
        (convnet([3, 8], [None], 4, 5), feeds_of(normal([first + second, 3, 8, 8], 4))),
    ):
        whole = moments_of(model, feeds, batch=batch)
        parts = [moments_of(model, part, batch=1) for part in (feeds[:first], feeds[first:])]
        assert whole
        for site, got in whole.items():
            summed = parts[0][site] + parts[1][site]
            np.testing.assert_allclose(got.A, summed.A, rtol=1e-5, atol=1e-5)
            assert (got.positions, got.samples) == (summed.positions, summed.samples)
            assert got.samples == first + second
            if got.C is not None:
                np.testing.assert_allclose(got.C, summed.C, rtol=1e-4, atol=1e-4)
                assert len(got.patches) == len(summed.patches) == got.positions
                np.testing.assert_allclose(got.patches.sum(0), summed.patches.sum(0), rtol=1e-3, atol=1e-3)


def test_a_linear_sites_moment_is_that_of_its_inputs():
    x = normal([7, 8], 6)
    got = moments_of(two_layers(), feeds_of(x), batch=3)["h"]
    np.testing.assert_allclose(got.A, x.T.astype(np.float64) @ x, rtol=1e-6)
    assert (got.positions, got.samples, got.C) == (7, 7, None)
