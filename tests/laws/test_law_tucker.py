"""Laws of Tucker-2: what both sides lose adds up, to first order and no further than their product."""

from __future__ import annotations

import numpy as np
import pytest
from builders import full_rank, normal, weight
from hypothesis import assume, given
from hypothesis import strategies as st

from onnx_lowrank.collection.scores import never_rising
from onnx_lowrank.numerics.gram import weight_gram
from onnx_lowrank.numerics.kronecker_metric import SideMoments, bases
from onnx_lowrank.schemes import FittedSide, KernelFirst, KernelLast, Tucker2
from onnx_lowrank.types import Array

SEEDS = st.integers(0, 10**6)


def cut(W: Array, seed: int):
    """Return Tucker-2 and both schemes of one side, cut by the same bases."""
    found = {}
    for side in ("in", "out"):
        gram = weight_gram(W, side)
        z, e = (normal([60, len(gram)], seed + i + (5 if side == "in" else 0)).astype(float) for i in range(2))
        rank = min(len(gram), W.size // len(gram))
        (basis,) = bases(SideMoments(z.T @ z, e.T @ e, 60, 60), side, gram, rank, [1e-3])
        found[side] = FittedSide(basis, np.linspace(1, 0, rank + 1) ** 3)
    both = full_rank("tucker-2", W.shape)
    first, last = both[1:], both[:1]
    return (
        Tucker2().cut(W, found, both),
        KernelFirst().cut(W, {"out": found["out"]}, first),
        KernelLast().cut(W, {"in": found["in"]}, last),
        both,
    )


@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 3), SEEDS)
def test_it_projects_both_sides(rows: int, columns: int, kernel: int, seed: int):
    """Keeping a side whole leaves the scheme of the other side; keeping both, the weight."""
    assume(columns <= rows * kernel * 2 and rows <= columns * kernel * 2)  # else W itself limits what the sides hold
    W = weight((rows, columns, kernel, 2), seed).astype(np.float64)
    both, first, last, (inner, outer) = cut(W, seed + 1)
    np.testing.assert_allclose(both.dense((inner, outer)), W, rtol=0, atol=1e-4)
    for k in range(1, outer + 1):
        np.testing.assert_allclose(both.dense((inner, k)), first.dense((k,)), rtol=0, atol=1e-4)
    for k in range(1, inner + 1):
        np.testing.assert_allclose(both.dense((k, outer)), last.dense((k,)), rtol=0, atol=1e-4)
    assert both.error((0, 0)) == 1.0
    assert both.error((1, 1)) == min(first.error((1,)) + last.error((1,)), 1.0)


@given(SEEDS)
def test_what_both_sides_lose_adds_but_for_a_product(seed: int):
    """delta = out + in - both at once: the last is what the sum leaves out, and where both are small it is smaller."""
    W = weight((8, 8, 3), seed).astype(np.float64)
    both, first, last, (inner, outer) = cut(W, seed + 1)
    out, into = first.dense((outer - 1,)) - W, last.dense((inner - 1,)) - W
    rest = (both.dense((inner - 1, outer - 1)) - W) - (out + into)
    assert np.linalg.norm(rest) < 0.75 * min(np.linalg.norm(out), np.linalg.norm(into))
    assert np.linalg.norm(rest) > 0


def test_the_grid_of_ranks_stays_small_and_reaches_both_ends():
    offered = Tucker2().ranks((512, 256, 64, 1), 8)
    inner, outer = ({ranks[i] for ranks in offered} for i in range(2))
    assert (min(inner), max(inner), min(outer)) == (8, 248, 8)
    assert len(offered) <= 144
    assert all(i % 8 == 0 and o % 8 == 0 for i, o in offered)
    assert Tucker2().ranks((512, 256, 1, 1), 8) == []
    assert Tucker2().ranks((512, 8, 3, 3), 8, 32) == []


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=9, unique=True), SEEDS)
def test_losses_never_rise_with_any_rank(ranks: list[tuple[int, int]], seed: int):
    values = np.abs(normal([len(ranks)], seed)).astype(float)
    got = never_rising(values, ranks)
    naive = [max(v for v, other in zip(values, ranks, strict=True) if other[0] >= r[0] and other[1] >= r[1])
             for r in ranks]  # fmt: skip
    assert got == pytest.approx(naive)
    assert (got >= values).all()
