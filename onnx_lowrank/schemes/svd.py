"""W = U (Uᵀ W): the kernel stays with the first factor, the second is 1×1.

Minimises E‖(W − Ŵ) x‖² over all Ŵ of rank k (Eckart–Young in the metric of the inputs, as SVD-LLM, arXiv 2403.07378):
U holds the leading left singular vectors of W A^½, which are the eigenvectors of W A Wᵀ = E y yᵀ, the second moment of
the site's own outputs. So Ŵ = U_k U_kᵀ W needs no inverse of A, and for a convolution no Gram of its k×k patches.

With few samples, directions without data look free. So A is shrunk towards a multiple of the identity,
A + λ tr(A)/n, and λ is the one of `SHRINK` whose basis loses least on samples that it was not fitted on.

A grouped weight is block-diagonal: every group has a pair of its own, all of one rank.
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.rounding import CLOSE, first_least
from onnx_lowrank.schemes.nested_pair import NestedPair, joined
from onnx_lowrank.schemes.scheme import FittedSide, FittedSides, multiple_in, of_group, pointwise, ranks_below
from onnx_lowrank.schemes.tied_pair import tied_pair
from onnx_lowrank.types import Array, Layout, Moments, Ranks, SideName

SHRINK = (1e-4, 1e-2, 1e-1)
TINY = 1e-12


def _ranks(shape: tuple[int, ...], multiple: int, groups: int) -> list[Ranks]:
    rows, columns = shape[0] // groups, math.prod(shape[1:])
    return ranks_below(min(rows, columns), multiple_in(multiple, groups))


def _layout(shape: tuple[int, ...], ranks: Ranks, groups: int) -> Layout:
    (rank,) = ranks
    axes = tuple(range(len(shape) - 2))
    return (((groups * rank, *shape[1:]), axes), ((shape[0], rank, *(1 for _ in axes)), ()))


def _second_moment(matrix: Array, moments: Moments) -> Array:
    """Return E y yᵀ (out, out) of y = W x."""
    return moments.C / moments.positions if moments.C is not None else matrix @ moments.A @ matrix.T / moments.positions


def _plain(matrix: Array) -> tuple[Array, Array]:
    """Return squared singular values (r,) and left singular vectors (out, r)."""
    if matrix.shape[0] <= matrix.shape[1]:
        return linalg.eigen(matrix @ matrix.T)
    singular, left = linalg.svd(matrix)
    return singular**2, left


def _whitened(matrix: Array, fit: Moments, second: Array | None, shrink: float) -> tuple[Array, Array]:
    """Return eigenvalues (r,) and leading eigenvectors (out, r) of W (A + λ tr(A)/n) Wᵀ; `second` is W A Wᵀ."""
    power = shrink * fit.energy / len(fit.A) / fit.positions
    if second is None:
        return _plain(matrix @ linalg.root(fit.A / fit.positions + power * np.eye(len(fit.A))))
    values, vectors = linalg.eigen(second + power * (matrix @ matrix.T))
    rank = min(matrix.shape)
    return values[:rank], vectors[:, :rank]


def _bases(matrix: Array, fit: Moments | None, shrinks: tuple[float, ...]) -> list[tuple[Array, Array]]:
    if fit is None:
        return [_plain(matrix)]
    wide = matrix.shape[0] <= matrix.shape[1] or fit.C is not None
    second = _second_moment(matrix, fit) if wide else None
    return [_whitened(matrix, fit, second, shrink) for shrink in shrinks]


def _errors(values: Array, left: Array, second: Array | None) -> tuple[Array, float]:
    """Return the relative squared error at every rank (r + 1,), and the whole: of outputs of moment `second`."""
    if second is None:
        return linalg.relative(linalg.tails(values)), float(values.sum())
    lost = linalg.tails(np.maximum(np.einsum("or,or->r", left, second @ left), 0.0))
    total = float(np.trace(second))
    return (np.minimum(lost / total, 1.0) if total > 0 else np.zeros_like(lost)), total


def _factor(
    name: str, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int
) -> NestedPair:
    parts = np.split(np.asarray(weight, np.float64), groups)
    pairs = [
        _group_pair(name, part, of_group(fit, g, groups), of_group(score, g, groups), most)
        for g, part in enumerate(parts)
    ]
    return pairs[0][0] if groups == 1 else joined(pairs)


def _group_pair(
    name: str, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks
) -> tuple[NestedPair, float]:
    """Return the pair of one group, and the energy of its outputs."""
    matrix = weight.reshape(weight.shape[0], -1)
    second = None if score is None else _second_moment(matrix, score)
    bases = _bases(matrix, fit, SHRINK if score else SHRINK[:1])
    tried = [(*_errors(values, left, second), left) for values, left in bases]
    worth = [float(np.log(np.maximum(errors[: most[0] + 1], TINY)).sum()) for errors, *_ in tried]
    errors, energy, left = tried[first_least(worth, CLOSE * most[0])]
    first = (left.T @ matrix).reshape(left.shape[1], *weight.shape[1:])
    return NestedPair.kept(name, first, pointwise(left, weight.ndim - 2), errors, most), energy


def _cut(name: str, weight: Array, fitted: FittedSide, most: Ranks, groups: int) -> NestedPair:
    """Return write (readᵀ W) on the outputs, (W write) readᵀ on the inputs of a matrix."""
    (rank,), basis = most, fitted.basis
    matrices = np.asarray(weight, np.float64).reshape(groups, weight.shape[0] // groups, -1)
    read, write = (side[:, :, :rank] for side in basis.blocks())
    read_transposed = np.swapaxes(read, 1, 2)
    first, last = (read_transposed @ matrices, write) if basis.side == "out" else (read_transposed, matrices @ write)
    first, last = first.reshape(-1, *weight.shape[1:]), pointwise(last.reshape(-1, last.shape[2]), weight.ndim - 2)
    return NestedPair.kept(name, first, last, fitted.errors, most, groups=groups)


class Svd:
    """A matrix, or a 1×1 convolution, as a pair."""

    name = "svd"
    splits = False

    def sides(self, shape: tuple[int, ...], groups: int = 1) -> tuple[SideName, ...]:
        """Return the smaller side: both give the same factors. Of groups the outputs, which are apart as they are."""
        return ("out",) if groups > 1 or shape[0] <= math.prod(shape[1:]) else ("in",)

    def cut(self, weight: Array, sides: FittedSides, most: Ranks, groups: int = 1) -> NestedPair:
        """Return the factors of a basis of either side."""
        (side,) = sides.values()
        return _cut(self.name, weight, side, most, groups)

    def ranks(self, shape: tuple[int, ...], multiple: int, groups: int = 1) -> list[Ranks]:
        """Return the ranks below the full one."""
        return _ranks(shape, multiple, groups) if math.prod(shape[2:]) == 1 else []

    def layout(self, shape: tuple[int, ...], ranks: Ranks, groups: int = 1) -> Layout:
        """Return (rank, in) then (out, rank)."""
        return _layout(shape, ranks, groups)

    def factor(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int = 1
    ) -> NestedPair:
        """Return the pair in the metric of the inputs, of a tied table in that of both ways it is read."""
        if any(moments is not None and moments.H is not None for moments in (fit, score)):
            tied = FittedSide(*tied_pair(np.asarray(weight, np.float64), fit, score, min(weight.shape), SHRINK))
            return _cut(self.name, weight, tied, most, groups)
        return _factor(self.name, weight, fit, score, most, groups)


class KernelFirst:
    """A k×k convolution as k×k to `rank` channels, then 1×1."""

    name = "kernel-first"
    splits = False

    def sides(self, shape: tuple[int, ...], groups: int = 1) -> tuple[SideName, ...]:
        """Return the outputs: the kernel comes before the projection."""
        return ("out",)

    def cut(self, weight: Array, sides: FittedSides, most: Ranks, groups: int = 1) -> NestedPair:
        """Return the factors of a basis of the outputs."""
        return _cut(self.name, weight, sides["out"], most, groups)

    def ranks(self, shape: tuple[int, ...], multiple: int, groups: int = 1) -> list[Ranks]:
        """Return the ranks below the full one."""
        return _ranks(shape, multiple, groups) if math.prod(shape[2:]) > 1 else []

    def layout(self, shape: tuple[int, ...], ranks: Ranks, groups: int = 1) -> Layout:
        """Return (rank, in, *k) then (out, rank, 1…)."""
        return _layout(shape, ranks, groups)

    def factor(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int = 1
    ) -> NestedPair:
        """Return the pair in the metric of the inputs."""
        return _factor(self.name, weight, fit, score, most, groups)
