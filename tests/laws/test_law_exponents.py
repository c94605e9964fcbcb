"""Laws of the mixed metric A^a ⊗ B^b: what it is at its ends, positive between them, and the same on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from builders import correlated, weight
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.numerics.kronecker_metric import (
    SideMoments,
    bases,
    between,
    in_metric,
    kronecker,
    power,
)

SIZES = st.integers(2, 9)
SEEDS = st.integers(0, 10**6)
SHARES = st.floats(0.05, 0.95)
SIDES = st.sampled_from(["out", "in"])
NONE = 1e-12
"""So little shrinkage that nothing changes to the accuracy asked for here."""
ENDS = {"inputs": (1.0, 0.0), "weights": (0.0, 0.0), "joint": (1.0, 1.0)}


def definite(width: int, seed: int) -> np.ndarray:
    """Return a positive definite (width, width) of condition about 100."""
    rows = correlated(4 * width, width, seed).astype(np.float64)
    moment = rows.T @ rows / len(rows)
    return moment + 0.01 * np.trace(moment) / width * np.eye(width)


def site(rows: int, columns: int, side: str, seed: int) -> tuple[np.ndarray, SideMoments, np.ndarray]:
    """Return W (out, in), the moments of its side, and its gram there."""
    W = weight((rows, columns), seed).astype(np.float64)
    x, g = correlated(60, columns, seed + 1).astype(np.float64), correlated(60, rows, seed + 2).astype(np.float64)
    z, e = (x @ W.T, g) if side == "out" else (x, g @ W)
    return W, SideMoments(z.T @ z, e.T @ e, 60, 20), W @ W.T if side == "out" else W.T @ W


def product(W: np.ndarray, moments: SideMoments, side: str, gram: np.ndarray, rank: int) -> np.ndarray:
    (basis,) = bases(moments, side, gram, rank, [NONE])
    projection = basis.write @ basis.read.T
    return projection @ W if side == "out" else W @ projection


@given(st.integers(1, 9), SHARES, SEEDS)
def test_powers_and_means_are_positive_definite_and_exact_at_their_ends(width: int, share: float, seed: int):
    one, other = definite(width, seed), definite(width, seed + 1)
    for mixed in (power(one, share), between(one, other, share)):
        np.testing.assert_allclose(mixed, mixed.T, rtol=0, atol=1e-12 * np.trace(mixed))
        assert np.linalg.eigvalsh(mixed).min() > 0
    assert between(one, other, 0) is one
    assert between(one, other, 1) is other
    assert power(one, 1) is one
    np.testing.assert_array_equal(power(one, 0), np.eye(width))
    for end, near in ((one, 1e-6), (other, 1 - 1e-6)):
        np.testing.assert_allclose(between(one, other, near), end, rtol=0, atol=1e-4 * np.trace(end))


@given(st.integers(1, 9), SHARES, SEEDS)
def test_the_mean_is_kept_by_every_congruence_and_does_not_know_which_end_is_first(width: int, share: float, seed: int):
    one, other, turn = definite(width, seed), definite(width, seed + 1), definite(width, seed + 2)
    mixed = between(one, other, share)
    np.testing.assert_allclose(between(other, one, 1 - share), mixed, rtol=0, atol=1e-9 * np.trace(mixed))
    turned = between(turn @ one @ turn, turn @ other @ turn, share)
    np.testing.assert_allclose(turned, turn @ mixed @ turn, rtol=0, atol=1e-8 * np.trace(turned))
    np.testing.assert_allclose(between(np.eye(width), one, share), power(one, share), rtol=0, atol=1e-9)


@given(st.integers(1, 6), st.integers(0, 3), SHARES, SEEDS)
def test_through_a_weight_the_mean_bounds_the_power(rows: int, more: int, share: float, seed: int):
    """W A^a Wᵀ, which is not collected: the same for square weights, no more than the mean for wide ones (Ando)."""
    W, A = weight((rows, rows + more), seed).astype(np.float64), definite(rows + more, seed + 1)
    mixed, exact = between(W @ W.T, W @ A @ W.T, share), W @ power(A, share) @ W.T
    if more == 0 and np.linalg.cond(W) < 1e4:
        np.testing.assert_allclose(mixed, exact, rtol=0, atol=1e-6 * np.trace(exact))
    assert np.linalg.eigvalsh(mixed - exact).min() >= -1e-6 * np.trace(exact)


@given(SIZES, SIZES, SIDES, st.sampled_from(list(ENDS)), SEEDS)
def test_the_ends_are_the_metrics_of_their_own(rows: int, columns: int, side: str, metric: str, seed: int):
    _, moments, gram = site(rows, columns, side, seed)
    mixed, own = in_metric(moments, side, gram, "joint", ENDS[metric]), in_metric(moments, side, gram, metric)
    np.testing.assert_array_equal(mixed.Z, own.Z)
    np.testing.assert_array_equal(mixed.E, own.E)
    assert (mixed.positions, mixed.samples) == (moments.positions, moments.samples)


@given(SIZES, SHARES, SHARES, SEEDS)
def test_both_sides_of_a_square_weight_give_the_same_product(width: int, a: float, b: float, seed: int):
    """At every rank, by the singular value decomposition of B^½ᵇ W A^½ᵃ itself."""
    W, x = weight((width, width), seed).astype(np.float64) + 2 * np.eye(width), correlated(60, width, seed + 1)
    A, B = definite(width, seed + 1), definite(width, seed + 2)
    if np.linalg.cond(W) > 1e3:
        return
    left, right = power(B, b / 2), power(A, a / 2)
    U, values, _ = np.linalg.svd(left @ W @ right)
    for rank in range(1, width):
        if values[rank - 1] - values[rank] < 1e-3 * values[0]:  # which of two alike is kept is rounding
            continue
        kept = U[:, :rank] @ U[:, :rank].T
        best = np.linalg.solve(left, kept @ left @ W)
        for side, Z, E, gram in (("out", W @ A @ W.T, B, W @ W.T), ("in", A, W.T @ B @ W, W.T @ W)):
            moments = in_metric(SideMoments(len(x) * Z, len(x) * E, len(x), len(x)), side, gram, "joint", (a, b))
            np.testing.assert_allclose(product(W, moments, side, gram, rank), best, rtol=0, atol=1e-4)


@given(SIZES, SIZES, SIDES, SHARES, SHARES, SEEDS)
def test_all_ranks_together_reproduce_the_weight(rows: int, columns: int, side: str, a: float, b: float, seed: int):
    W, moments, gram = site(rows, columns, side, seed)
    mixed = in_metric(moments, side, gram, "joint", (a, b))
    (basis,) = bases(mixed, side, gram, min(rows, columns), [1e-2])
    projection = basis.write @ basis.read.T
    np.testing.assert_allclose(projection @ W if side == "out" else W @ projection, W, rtol=0, atol=2e-4)
    best = kronecker(bases(moments, side, gram, min(rows, columns), [NONE])[0], moments)
    here = kronecker(bases(mixed, side, gram, min(rows, columns), [NONE])[0], moments)
    assert (best <= here * (1 + 1e-6) + 1e-9 * best[0]).all()


@given(SIZES, SIDES, SHARES, SEEDS)
def test_groups_are_raised_one_by_one(width: int, side: str, share: float, seed: int):
    parts = [site(width, width + 1, side, seed + group) for group in range(2)]
    Z, E, gram = (np.stack(arrays) for arrays in zip(*((m.Z, m.E, g) for _, m, g in parts), strict=True))
    together = in_metric(SideMoments(Z, E, 60, 20), side, gram, "joint", (share, 1 - share))
    for group, (_, moments, own) in enumerate(parts):
        alone = in_metric(moments, side, own, "joint", (share, 1 - share))
        np.testing.assert_array_equal(together.Z[group], alone.Z)
        np.testing.assert_array_equal(together.E[group], alone.E)


@given(SIZES, SHARES, SHARES, SEEDS)
def test_a_transposed_reading_has_the_exponents_of_its_own_input_and_gradient(
    width: int, a: float, b: float, seed: int
):
    """What is an input at one reading stands where the gradient stands at the other."""
    _, straight, gram = site(width, width + 1, "out", seed)
    _, other, _ = site(width, width + 1, "out", seed + 5)
    tied = SideMoments(straight.Z, straight.E, 60, 20, transposed=other)
    mixed = in_metric(tied, "out", gram, "joint", (a, b))
    assert mixed.transposed is not None
    apart = in_metric(other, "out", gram, "joint", (b, a))
    np.testing.assert_array_equal(mixed.transposed.Z, apart.Z)
    np.testing.assert_array_equal(mixed.transposed.E, apart.E)
    assert in_metric(tied, "out", gram, "joint", (0.0, 0.0)).transposed is None


@pytest.mark.parametrize("side", ["out", "in"])
def test_fewer_samples_than_dimensions_and_a_weight_of_low_rank_stay_finite(side: str):
    W = weight((12, 3), 1).astype(np.float64) @ weight((3, 12), 2)
    x, g = correlated(4, 12, 3).astype(np.float64), correlated(4, 12, 4).astype(np.float64)
    z, e = (x @ W.T, g) if side == "out" else (x, g @ W)
    gram = W @ W.T if side == "out" else W.T @ W
    mixed = in_metric(SideMoments(z.T @ z, e.T @ e, 4, 4), side, gram, "joint", (0.5, 0.5))
    for moments in (mixed.Z, mixed.E):
        assert np.isfinite(moments).all()
        assert np.linalg.eigvalsh(moments).min() > -1e-9 * np.trace(moments)
    assert np.abs(product(W, mixed, side, gram, 3) - W).max() < 1e-3
