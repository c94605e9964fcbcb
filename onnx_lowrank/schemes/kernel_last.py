"""W_o = (W_o A^½ V)(Vᵀ A^-½) at every kernel offset o: 1×1 to `rank` channels first, then the k×k kernel.

V holds the leading eigenvectors of A^½ (Σ_o W_oᵀ W_o) A^½, A the second moment of the input channels; that neglects how
neighbouring positions are correlated. So the *error* is not taken from the eigenvalues but measured on sampled patches.
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank import linalg
from onnx_lowrank.curvature import Basis, SideName
from onnx_lowrank.schemes.base import NestedPair, pointwise, saving_ranks
from onnx_lowrank.types import Array, Layout, Moments, Ranks

FLOOR = 1e-4
"""Channel directions with less than this share of the strongest one's energy count as if they had it."""


class KernelLast:
    """A k×k convolution as 1×1 to `rank` channels, then k×k."""

    name = "kernel-last"

    def side(self, shape: tuple[int, ...]) -> SideName:
        """Return the inputs: the kernel comes after the projection."""
        return "in"

    def pair(self, weight: Array, basis: Basis, errors: Array, most: Ranks) -> NestedPair:
        """Return the factors that a basis stands for."""
        (rank,) = most
        tall = np.moveaxis(np.asarray(weight, np.float64), 1, -1)
        mixed = tall.reshape(-1, weight.shape[1]) @ basis.write[:, :rank]
        last = np.moveaxis(mixed.reshape(*tall.shape[:-1], rank), -1, 1)
        first = pointwise(basis.read[:, :rank].T, weight.ndim - 2)
        return NestedPair.kept(self.name, first, last, errors, most, first_owns=False)

    def ranks(self, shape: tuple[int, ...], multiple: int) -> list[Ranks]:
        """Return the ranks that save."""
        rows, columns, kernel = shape[0], shape[1], math.prod(shape[2:])
        if kernel == 1:
            return []
        return saving_ranks(min(columns, rows * kernel), rows * columns * kernel, columns + rows * kernel, multiple)

    def layout(self, shape: tuple[int, ...], ranks: Ranks) -> Layout:
        """Return (rank, in, 1…) then (out, rank, *k)."""
        (rank,) = ranks
        axes = tuple(range(len(shape) - 2))
        return (((rank, shape[1], *(1 for _ in axes)), ()), ((shape[0], rank, *shape[2:]), axes))

    def factor(self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks) -> NestedPair:
        """Return the pair in the metric of the input channels."""
        weight = np.asarray(weight, np.float64)
        rows, columns = weight.shape[:2]
        rank = min(columns, rows * math.prod(weight.shape[2:]))
        tall = np.moveaxis(weight, 1, -1).reshape(-1, columns)  # (out · k, in)
        root, inverse = linalg.roots(fit.A, FLOOR) if fit is not None else (np.eye(columns), np.eye(columns))
        values, vectors = linalg.eigen(root @ (tall.T @ tall) @ root)
        basis = vectors[:, :rank]
        last = np.moveaxis((tall @ (root @ basis)).reshape(rows, *weight.shape[2:], rank), -1, 1)
        first = basis.T @ inverse
        measured = score or fit
        if measured is None or measured.patches is None:
            errors = linalg.relative(linalg.tails(values[:rank]))
        else:
            errors = _measured(first, last, measured.patches)
        return NestedPair.kept(self.name, pointwise(first, weight.ndim - 2), last, errors, most, first_owns=False)


def _measured(first: Array, last: Array, patches: Array) -> Array:
    """Return the relative squared error at every rank, on patches (n, in, *k), made non-increasing.

    Adds one component's share of the output at a time, from the last to the first: the error at rank k is the energy
    of what the components from k on give together.
    """
    rank = first.shape[0]
    count = patches.shape[0]
    flat = np.asarray(patches, np.float64).reshape(count, patches.shape[1], -1)  # (n, in, k)
    mixed = np.einsum("ri,nik->rnk", first, flat, optimize=True)
    kernels = np.moveaxis(last, 1, 0).reshape(rank, last.shape[0], -1)  # (r, out, k)
    lost = np.zeros((count, last.shape[0]))
    errors = np.zeros(rank + 1)
    for component in range(rank - 1, -1, -1):
        lost += mixed[component] @ kernels[component].T
        errors[component] = float(np.vdot(lost, lost))
    if errors[0] <= 0:  # of the whole output: what cancels in it may make a part of it larger
        return np.zeros_like(errors)
    rising: Array = np.maximum.accumulate(errors[::-1])[::-1]
    relative: Array = rising / errors[0]
    return np.minimum(relative, 1.0)
