"""Weights of a shared input as U_i (V x): V of rank k projects the input, each weight has its own second factor.

Together they are one matrix W = [W_1; …; W_n], (Σ out, in), factored by a projection on its inputs. In
the joint metric that is the best Π for ½ Σ_i tr(B_i δ_i A δ_iᵀ): A is the one of the shared input, and on the inputs
the B_i add as Σ W_iᵀ B_i W_i (interactions between the members are left out, as they are between all weights). In the
metric of the inputs it is the truncated SVD of W A^½, in none that of W.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from onnx_lowrank.numerics.kronecker_metric import Basis
from onnx_lowrank.schemes.interpolative import interpolative_layout, stored_sides
from onnx_lowrank.schemes.nested_pair import NestedPair
from onnx_lowrank.schemes.scheme import ranks_below, thinned
from onnx_lowrank.schemes.svd import Svd
from onnx_lowrank.types import SHARED, Array, Layout, Moments, Ranks, SharedInput, SideName

MATRICES: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
"""Neither factor has spatial axes."""


def shared_ranks(shared: SharedInput, multiple: int) -> list[Ranks]:
    """Return the ranks at which the weights of a shared input cost fewer parameters than they do now, rising."""
    dense = sum(shared.outs) * shared.inner
    below = ranks_below(min(sum(shared.outs), shared.inner), multiple)
    return thinned([ranks for ranks in below if _stored(shared, ranks) < dense])


def shared_layout(shared: SharedInput, member: str, ranks: Ranks) -> Layout:
    """Return what a member adds: its own factor, and the first member the shared one as well.

    One of these two is without its identity block where the operators can do it.
    """
    (rank,) = ranks
    place = shared.members.index(member)
    own = ((shared.outs[place], rank), ())
    if place:
        return (own,)
    both = (((rank, shared.inner), ()), own)
    return interpolative_layout(both, 1, shared_sides(shared, ranks))


def shared_sides(shared: SharedInput, ranks: Ranks) -> tuple[SideName, ...]:
    """Return the side without an identity block: the inputs, which are those of all.

    Rows of one member in the first factor's place would give the others large coefficients where it is weak.
    """
    (rank,) = ranks
    able = tuple(side for side in shared.identity if side == "in")
    return stored_sides((((rank, shared.inner), ()), ((sum(shared.outs), rank), ())), 1, able)


def _stored(shared: SharedInput, ranks: Ranks) -> int:
    layouts = (shared_layout(shared, member, ranks) for member in shared.members)
    return sum(math.prod(shape) for layout in layouts for shape, _ in layout)


def cut_shared(weights: Sequence[Array], basis: Basis, errors: Sequence[Array], most: Ranks) -> list[NestedPair]:
    """Return every member's pair of a projection on the inputs: W_i ≈ (W_i write) readᵀ.

    weights: (out, in) each; errors: (r + 1,) each, kept as they are.
    """
    lasts = (np.asarray(weight, np.float64) @ basis.write for weight in weights)
    return _pairs(basis.read.T, lasts, errors, most)


def factor_shared(
    weights: Sequence[Array], fit: Moments | None, score: Moments | None, most: Ranks
) -> list[NestedPair]:
    """Return every member's pair; the basis is the best in the metric of `fit` (None: the plain one).

    weights: (out, in) each. Errors are each member's own, on `score`; None: with inputs that are all alike.
    """
    concatenated = np.concatenate([np.asarray(weight, np.float64) for weight in weights])
    pair = Svd().factor(concatenated, fit, score, most)
    lasts = np.split(pair.last, np.cumsum([len(weight) for weight in weights])[:-1])
    A = np.eye(concatenated.shape[1]) if score is None else score.A
    errors = (_errors(np.asarray(w, np.float64), pair.first, last, A) for w, last in zip(weights, lasts, strict=True))
    return _pairs(pair.first, lasts, errors, most)


def _pairs(first: Array, lasts: Iterable[Array], errors: Iterable[Array], most: Ranks) -> list[NestedPair]:
    """Return the pairs cut to `most` ranks, in float32: all of them hold one and the same first factor."""
    (rank,) = most
    shared = np.ascontiguousarray(first[:rank], np.float32)
    return [
        NestedPair(SHARED, shared, last[:, :rank].astype(np.float32), error, MATRICES)
        for last, error in zip(lasts, errors, strict=True)
    ]


def _errors(weight: Array, first: Array, last: Array, A: Array) -> Array:
    """Return (r + 1,) tr(δ A δᵀ) / tr(W A Wᵀ) of every rank; never rising with it."""
    first, last = first.astype(np.float64), last.astype(np.float64)
    moved = A @ first.T
    whole = float(np.vdot(weight, weight @ A))
    crossed = np.einsum("or,or->r", last, weight @ moved)
    product = (first @ moved) * (last.T @ last)
    # what the first k components sum to: the last row and column are new each time
    squares = np.tril(product).sum(1) + np.triu(product).sum(0) - product.diagonal()
    lost = whole + np.concatenate([np.zeros(1), np.cumsum(squares - 2 * crossed)])
    lost = np.maximum.accumulate(np.clip(lost, 0.0, whole)[::-1])[::-1]
    return lost / whole if whole > 0 else np.zeros_like(lost)
