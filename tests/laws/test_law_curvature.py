"""Laws of the two-sided metric: every rank's loss by brute force, both sides the same, and nothing does better."""

from __future__ import annotations

import numpy as np
import pytest
from builders import correlated, weight
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.numerics.kronecker_metric import SideMoments, bases, in_metric, kronecker, project, rises, tails
from onnx_lowrank.schemes import FittedSide, KernelFirst, KernelLast, Svd

SIZES = st.integers(2, 9)
SEEDS = st.integers(0, 10**6)
NONE = 1e-12
"""So little shrinkage that nothing changes to the accuracy asked for here."""


def tensors(rows: int, columns: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return W (out, in), x (count, in) and g (count, out), float64, of falling spectra."""
    W = weight((rows, columns), seed).astype(np.float64)
    return W, correlated(count, columns, seed + 1).astype(np.float64), correlated(count, rows, seed + 2).astype(float)


def vectors(W: np.ndarray, x: np.ndarray, g: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    return (x @ W.T, g) if side == "out" else (x, g @ W)


def moments_of(W: np.ndarray, x: np.ndarray, g: np.ndarray, side: str, samples: int) -> SideMoments:
    z, e = vectors(W, x, g, side)
    return SideMoments(z.T @ z, e.T @ e, len(x), samples)


def gram_of(W: np.ndarray, side: str) -> np.ndarray:
    return W @ W.T if side == "out" else W.T @ W


def truncated(W: np.ndarray, basis, rank: int) -> np.ndarray:
    projection = basis.write[:, :rank] @ basis.read[:, :rank].T
    return projection @ W if basis.side == "out" else W @ projection


def brute(W: np.ndarray, basis, A: np.ndarray, B: np.ndarray, rank: int) -> float:
    delta = truncated(W, basis, rank) - W
    return 0.5 * float(np.trace(B @ delta @ A @ delta.T))


def second_moments(x: np.ndarray, g: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    return x.T @ x / samples, g.T @ g / len(g)


@given(SIZES, SIZES, st.sampled_from(["out", "in"]), SEEDS)
def test_kronecker_is_the_trace_at_every_rank(rows: int, columns: int, side: str, seed: int):
    """On the moments that the basis was fitted on the losses fall by themselves: no envelope hides anything."""
    W, x, g = tensors(rows, columns, 40, seed)
    moments = moments_of(W, x, g, side, 10)
    (basis,) = bases(moments, side, gram_of(W, side), len(gram_of(W, side)), [NONE])
    A, B = second_moments(x, g, 10)
    expected = [brute(W, basis, A, B, k) for k in range(basis.read.shape[1] + 1)]
    np.testing.assert_allclose(kronecker(basis, moments), expected, rtol=1e-5, atol=1e-9 * expected[0])


@given(SIZES, SIZES, st.sampled_from(["out", "in"]), SEEDS)
def test_kronecker_on_other_samples_is_the_envelope_of_the_trace(rows: int, columns: int, side: str, seed: int):
    """With shrinkage, and on moments that the basis has not seen, read and write are no longer conjugate there."""
    W, x, g = tensors(rows, columns, 40, seed)
    _, other_x, other_g = tensors(rows, columns, 30, seed + 7)
    gram = gram_of(W, side)
    (basis,) = bases(moments_of(W, x, g, side, 10), side, gram, len(gram), [1e-2])
    A, B = second_moments(other_x, other_g, 15)
    naive = np.array([brute(W, basis, A, B, k) for k in range(len(gram) + 1)])
    expected = np.maximum.accumulate(naive[::-1])[::-1]
    got = kronecker(basis, moments_of(W, other_x, other_g, side, 15))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9 * expected[0])
    assert (np.diff(got) <= 0).all()


@given(SIZES, SIZES, SEEDS)
def test_both_sides_of_a_matrix_give_the_same_product(rows: int, columns: int, seed: int):
    W, x, g = tensors(rows, columns, 60, seed)
    rank = min(rows, columns)
    pair = [bases(moments_of(W, x, g, s, 60), s, gram_of(W, s), rank, [NONE])[0] for s in ("out", "in")]
    for k in range(1, rank + 1):
        np.testing.assert_allclose(truncated(W, pair[0], k), truncated(W, pair[1], k), rtol=0, atol=1e-5)


@given(SIZES, SIZES, st.sampled_from([1e-6, 1e-3, 1e-1]), st.integers(1, 30), SEEDS)
def test_full_rank_reproduces_the_weight(rows: int, columns: int, shrink: float, count: int, seed: int):
    """Even with fewer samples than dimensions: the root that is inverted is the shrunken one."""
    W, x, g = tensors(rows, columns, count, seed)
    rank = min(rows, columns)
    for side in ("out", "in"):
        (basis,) = bases(moments_of(W, x, g, side, count), side, gram_of(W, side), rank, [shrink])
        factors = Svd().cut(W, {side: FittedSide(basis, np.zeros(rank + 1))}, (rank,))
        np.testing.assert_allclose(factors.dense((rank,)), W, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("scheme", "side"), [(KernelFirst(), "out"), (KernelLast(), "in")])
@given(st.integers(2, 6), st.integers(2, 6), SEEDS)
def test_both_kernel_schemes_reproduce_at_full_rank_and_project_below(scheme, side, rows: int, columns: int, seed: int):
    W = weight((rows, columns, 3, 2), seed).astype(np.float64)
    matrix = W.reshape(rows, -1) if side == "out" else np.moveaxis(W, 1, -1).reshape(-1, columns)
    gram = matrix @ matrix.T if side == "out" else matrix.T @ matrix
    z, e = correlated(50, len(gram), seed + 1), correlated(50, len(gram), seed + 2)
    moments = SideMoments(z.T.astype(float) @ z, e.T.astype(float) @ e, 50, 50)
    (basis,) = bases(moments, side, gram, len(gram), [1e-3])
    factors = scheme.cut(W, {side: FittedSide(basis, np.zeros(len(gram) + 1))}, (len(gram),))
    np.testing.assert_allclose(factors.dense((len(gram),)), W, rtol=0, atol=1e-5)
    projection = basis.write[:, :1] @ basis.read[:, :1].T
    expected = np.einsum("op,pikl->oikl" if side == "out" else "oikl,ip->opkl",
                         *((projection, W) if side == "out" else (W, projection)))  # fmt: skip
    np.testing.assert_allclose(factors.dense((1,)), expected, rtol=0, atol=1e-5)


@given(SIZES, SIZES, st.sampled_from(["out", "in"]), SEEDS)
def test_no_other_metric_has_the_better_basis(rows: int, columns: int, side: str, seed: int):
    """Eckart–Young: in the joint loss, on its own moments, at every rank."""
    W, x, g = tensors(rows, columns, 60, seed)
    moments, gram = moments_of(W, x, g, side, 60), gram_of(W, side)
    rank = min(rows, columns)
    best = kronecker(bases(moments, side, gram, rank, [NONE])[0], moments)
    for metric in ("inputs", "weights"):
        other = kronecker(bases(in_metric(moments, side, gram, metric), side, gram, rank, [NONE])[0], moments)
        assert (best <= other * (1 + 1e-6) + 1e-9 * best[0]).all()
    A, B = second_moments(x, g, 60)
    values = np.linalg.svd(np.linalg.cholesky(B).T @ W @ np.linalg.cholesky(A), compute_uv=False)
    floor = [0.5 * float((values[k:] ** 2).sum()) for k in range(rank + 1)]
    np.testing.assert_allclose(best, floor, rtol=1e-5, atol=1e-8 * floor[0])


def test_the_joint_metric_pays_where_gradients_are_not_white():
    """The law above would hold for three equal bases."""
    W, x, g = tensors(24, 24, 300, 5)
    moments, gram = moments_of(W, x, g, "out", 300), gram_of(W, "out")
    joint, inputs, plain = (
        kronecker(bases(in_metric(moments, "out", gram, metric), "out", gram, 24, [NONE])[0], moments)[8]
        for metric in ("joint", "inputs", "weights")
    )
    assert joint < 0.6 * inputs < 0.6 * plain


@given(SIZES, SIZES, st.integers(1, 19), SEEDS)
def test_moments_add(rows: int, columns: int, cut: int, seed: int):
    W, x, g = tensors(rows, columns, 20, seed)
    whole = moments_of(W, x, g, "out", 20)
    parts = moments_of(W, x[:cut], g[:cut], "out", cut) + moments_of(W, x[cut:], g[cut:], "out", 20 - cut)
    np.testing.assert_allclose(parts.Z, whole.Z, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(parts.E, whole.E, rtol=1e-10, atol=1e-12)
    assert (parts.positions, parts.samples) == (20, 20)


def test_moments_without_input_or_without_gradient_are_empty():
    one, none = np.eye(2), np.zeros((2, 2))
    assert [SideMoments(Z, E, 1, 1).empty for Z in (one, none) for E in (one, none)] == [False, True, True, True]


@given(st.integers(1, 6), st.integers(1, 5), SEEDS)
def test_tails_and_rises_are_the_naive_sums(samples: int, rank: int, seed: int):
    v = np.random.default_rng(seed).standard_normal((samples, rank))
    ranks = list(range(rank + 1))
    tail = tails(v, ranks)
    naive = np.array([[sum(row[k:]) for k in ranks] for row in v])
    np.testing.assert_allclose(tail, naive, rtol=1e-12, atol=1e-12)
    assert (tails(v, ranks[::-2]) == tail[:, ::-2]).all()
    rise, error = rises(tail)
    np.testing.assert_allclose(rise, [np.mean([t**2 / 2 for t in column]) for column in naive.T], rtol=1e-12)
    if samples == 1:
        assert np.isinf(error).all()
        return
    spread = [
        np.sqrt(sum((t**2 / 2 - m) ** 2 for t in c) / (samples - 1) / samples)
        for c, m in zip(naive.T, rise, strict=True)
    ]
    np.testing.assert_allclose(error, spread, rtol=1e-9, atol=1e-12)


@given(SIZES, SIZES, st.sampled_from(["out", "in"]), st.integers(1, 4), st.integers(1, 3), SEEDS)
def test_project_gives_each_samples_gradient_along_every_truncation(
    rows: int, columns: int, side: str, samples: int, positions: int, seed: int
):
    """Σ_{i ≥ k} v_si = −⟨Γ_s, W_k − W⟩, with Γ_s = Σ_t g xᵀ formed for once."""
    W, x, g = tensors(rows, columns, samples * positions, seed)
    gram = gram_of(W, side)
    (basis,) = bases(moments_of(W, x, g, side, samples), side, gram, len(gram), [1e-2])
    v = project(basis, *vectors(W, x, g, side), samples)
    assert v.shape == (samples, len(gram))
    expected = np.empty((samples, len(gram) + 1))
    for s in range(samples):
        t = slice(s * positions, (s + 1) * positions)
        gradient = g[t].T @ x[t]
        expected[s] = [-np.vdot(gradient, truncated(W, basis, k) - W) for k in range(len(gram) + 1)]
    np.testing.assert_allclose(tails(v, range(len(gram) + 1)), expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
