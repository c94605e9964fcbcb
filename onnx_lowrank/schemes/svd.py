"""W = U (Uᵀ W): the kernel stays with the first factor, the second is 1×1.

Minimises E‖(W − Ŵ) x‖² over all Ŵ of rank k (Eckart–Young in the metric of the inputs, as SVD-LLM, arXiv 2403.07378):
U holds the leading left singular vectors of W A^½, which are the eigenvectors of W A Wᵀ = E y yᵀ, the second moment of
the site's own outputs. So Ŵ = U_k U_kᵀ W needs no inverse of A, and for a convolution no Gram of its k×k patches.

With few samples the directions that they do not reach look free. So A is shrunk towards a multiple of the identity,
A + λ tr(A)/n, and λ is the one of `SHRINK` whose basis loses least on samples that it was not fitted on.
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank import linalg
from onnx_lowrank.curvature import Basis, SideName
from onnx_lowrank.schemes.base import NestedPair, pointwise, saving_ranks
from onnx_lowrank.types import Array, Layout, Moments, Ranks

SHRINK = (1e-4, 1e-2, 1e-1)
TINY = 1e-12


def _ranks(shape: tuple[int, ...], multiple: int) -> list[Ranks]:
    rows, columns = shape[0], math.prod(shape[1:])
    return saving_ranks(min(rows, columns), rows * columns, rows + columns, multiple)


def _layout(shape: tuple[int, ...], ranks: Ranks) -> Layout:
    (rank,) = ranks
    axes = tuple(range(len(shape) - 2))
    return (((rank, *shape[1:]), axes), ((shape[0], rank, *(1 for _ in axes)), ()))


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


def _errors(values: Array, left: Array, second: Array | None) -> Array:
    """Return the relative squared error at every rank (r + 1,): where outputs have moment `second`, or by `values`."""
    if second is None:
        return linalg.relative(linalg.tails(values))
    lost = linalg.tails(np.maximum(np.einsum("or,or->r", left, second @ left), 0.0))
    total = float(np.trace(second))
    return np.minimum(lost / total, 1.0) if total > 0 else np.zeros_like(lost)


def _factor(name: str, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks) -> NestedPair:
    matrix = np.asarray(weight, np.float64).reshape(weight.shape[0], -1)
    second = None if score is None else _second_moment(matrix, score)
    bases = _bases(matrix, fit, SHRINK if score else SHRINK[:1])
    tried = [(_errors(values, left, second), left) for values, left in bases]
    errors, left = min(tried, key=lambda pair: float(np.log(pair[0][: most[0] + 1] + TINY).sum()))
    first = (left.T @ matrix).reshape(left.shape[1], *weight.shape[1:])
    return NestedPair.kept(name, first, pointwise(left, weight.ndim - 2), errors, most, first_owns=True)


def _pair(name: str, weight: Array, basis: Basis, errors: Array, most: Ranks) -> NestedPair:
    """Return write (readᵀ W) on the outputs, (W write) readᵀ on the inputs of a matrix."""
    matrix = np.asarray(weight, np.float64).reshape(weight.shape[0], -1)
    read, write = basis.read[:, : most[0]], basis.write[:, : most[0]]
    first, last = (read.T @ matrix, write) if basis.side == "out" else (read.T, matrix @ write)
    first = first.reshape(first.shape[0], *weight.shape[1:])
    return NestedPair.kept(name, first, pointwise(last, weight.ndim - 2), errors, most, first_owns=True)


class Svd:
    """A matrix, or a 1×1 convolution, as a pair."""

    name = "svd"

    def side(self, shape: tuple[int, ...]) -> SideName:
        """Return the smaller side: both give the same factors."""
        return "out" if shape[0] <= math.prod(shape[1:]) else "in"

    def pair(self, weight: Array, basis: Basis, errors: Array, most: Ranks) -> NestedPair:
        """Return the factors that a basis stands for."""
        return _pair(self.name, weight, basis, errors, most)

    def ranks(self, shape: tuple[int, ...], multiple: int) -> list[Ranks]:
        """Return the ranks that save."""
        return _ranks(shape, multiple) if math.prod(shape[2:]) == 1 else []

    def layout(self, shape: tuple[int, ...], ranks: Ranks) -> Layout:
        """Return (rank, in) then (out, rank)."""
        return _layout(shape, ranks)

    def factor(self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks) -> NestedPair:
        """Return the pair in the metric of the inputs."""
        return _factor(self.name, weight, fit, score, most)


class KernelFirst:
    """A k×k convolution as k×k to `rank` channels, then 1×1."""

    name = "kernel-first"

    def side(self, shape: tuple[int, ...]) -> SideName:
        """Return the outputs: the kernel comes before the projection."""
        return "out"

    def pair(self, weight: Array, basis: Basis, errors: Array, most: Ranks) -> NestedPair:
        """Return the factors that a basis stands for."""
        return _pair(self.name, weight, basis, errors, most)

    def ranks(self, shape: tuple[int, ...], multiple: int) -> list[Ranks]:
        """Return the ranks that save."""
        return _ranks(shape, multiple) if math.prod(shape[2:]) > 1 else []

    def layout(self, shape: tuple[int, ...], ranks: Ranks) -> Layout:
        """Return (rank, in, *k) then (out, rank, 1…)."""
        return _layout(shape, ranks)

    def factor(self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks) -> NestedPair:
        """Return the pair in the metric of the inputs."""
        return _factor(self.name, weight, fit, score, most)
