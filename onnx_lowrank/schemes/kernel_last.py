"""W_o = (W_o A^½ V)(Vᵀ A^-½) at every kernel offset o: 1×1 to `rank` channels first, then the k×k kernel.

V holds the leading eigenvectors of A^½ (Σ_o W_oᵀ W_o) A^½, A the second moment of the input channels; that neglects how
neighbouring positions are correlated. So the *error* is not taken from the eigenvalues but measured on sampled patches.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.schemes.nested_pair import NestedPair, joined
from onnx_lowrank.schemes.scheme import FittedSides, multiple_in, of_group, pointwise, ranks_below
from onnx_lowrank.types import Array, Layout, Moments, Ranks, SideName

FLOOR = 1e-4
"""Channel directions with less than this share of the strongest one's energy count as if they had it."""


class KernelLast:
    """A k×k convolution as 1×1 to `rank` channels, then k×k."""

    name = "kernel-last"
    splits = False

    def sides(self, shape: tuple[int, ...], groups: int = 1) -> tuple[SideName, ...]:
        """Return the inputs: the kernel comes after the projection."""
        return ("in",)

    def cut(self, weight: Array, sides: FittedSides, most: Ranks, groups: int = 1) -> NestedPair:
        """Return the factors of a basis of the inputs."""
        (rank,) = most
        read, write = (side[:, :, :rank] for side in sides["in"].basis.blocks())
        parts = np.split(np.asarray(weight, np.float64), groups)
        last = np.concatenate([mixed(part, basis) for part, basis in zip(parts, write, strict=True)])
        first = pointwise(np.swapaxes(read, 1, 2).reshape(groups * rank, -1), weight.ndim - 2)
        return NestedPair.kept(self.name, first, last, sides["in"].errors, most, owns=last_owns(weight), groups=groups)

    def ranks(self, shape: tuple[int, ...], multiple: int, groups: int = 1) -> list[Ranks]:
        """Return the ranks below the full one."""
        rows, columns, kernel = shape[0] // groups, shape[1], math.prod(shape[2:])
        if kernel == 1:
            return []
        return ranks_below(min(columns, rows * kernel), multiple_in(multiple, groups))

    def layout(self, shape: tuple[int, ...], ranks: Ranks, groups: int = 1) -> Layout:
        """Return (rank, in, 1…) then (out, rank, *k)."""
        (rank,) = ranks
        axes = tuple(range(len(shape) - 2))
        return (((groups * rank, shape[1], *(1 for _ in axes)), ()), ((shape[0], rank, *shape[2:]), axes))

    def factor(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int = 1
    ) -> NestedPair:
        """Return the pair in the metric of the input channels."""
        parts = np.split(np.asarray(weight, np.float64), groups)
        pairs = [
            self._group_pair(w, of_group(fit, g, groups), of_group(score, g, groups), most) for g, w in enumerate(parts)
        ]
        pair = pairs[0][0] if groups == 1 else joined(pairs)
        return replace(pair, errors=enveloped(pair.errors))

    def _group_pair(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks
    ) -> tuple[NestedPair, float]:
        """Return the pair of one group, and the energy of its outputs."""
        read, write, values = channel_basis(weight, fit)
        first, last = read.T, mixed(weight, write)
        measured = score or fit
        if measured is None or measured.patches is None:
            errors, energy = linalg.relative(linalg.tails(values)), float(values.sum())
        else:
            errors, energy = _measured(first, last, measured.patches)
        first = pointwise(first, weight.ndim - 2)
        return NestedPair.kept(self.name, first, last, errors, most, owns=last_owns(weight)), energy


def last_owns(weight: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return that all axes are the last factor's."""
    return ((), tuple(range(weight.ndim - 2)))


def channel_basis(weight: Array, fit: Moments | None) -> tuple[Array, Array, Array]:
    """Return read and write (in, r) of the projection W write readᵀ that is best for the channels, with values (r,)."""
    rows, columns = weight.shape[:2]
    rank = min(columns, rows * math.prod(weight.shape[2:]))
    tall = np.moveaxis(weight, 1, -1).reshape(-1, columns)  # (out · k, in)
    root, inverse = linalg.roots(fit.A, FLOOR) if fit is not None else (np.eye(columns), np.eye(columns))
    values, vectors = linalg.eigen(root @ (tall.T @ tall) @ root)
    basis = vectors[:, :rank]
    return inverse @ basis, root @ basis, values[:rank]


def mixed(weight: Array, write: Array) -> Array:
    """Return W write: (out, r, *k) of (out, in, *k) and (in, r)."""
    tall = np.moveaxis(weight, 1, -1)
    return np.moveaxis((tall.reshape(-1, weight.shape[1]) @ write).reshape(*tall.shape[:-1], -1), -1, 1)


def _measured(first: Array, last: Array, patches: Array) -> tuple[Array, float]:
    """Return `lost_at_ranks` on patches (n, in, *k).

    Adds one component's share of the output at a time, from the last to the first: the error at rank k is the energy
    of what the components from k on give together.
    """
    count = patches.shape[0]
    flat = np.asarray(patches, np.float64).reshape(count, patches.shape[1], -1)  # (n, in, k)
    inner = np.einsum("ri,nik->rnk", first, flat, optimize=True)
    return lost_at_ranks(inner, np.moveaxis(last, 1, 0).reshape(len(first), last.shape[0], -1))


def enveloped(errors: Array) -> Array:
    """Return the least errors that never rise with the rank, are not below the given ones, and are at most 1."""
    rising: Array = np.maximum.accumulate(errors[::-1])[::-1]
    return np.minimum(rising, 1.0)


def lost_at_ranks(inner: Array, kernels: Array) -> tuple[Array, float]:
    """Return the squared error at every rank over the whole output's energy, and that energy.

    inner: (r, n, k) what every component's first factor makes of n positions; kernels: (r, out, k) its last factor.
    """
    rank, count = inner.shape[:2]
    lost = np.zeros((count, kernels.shape[1]))
    errors = np.zeros(rank + 1)
    for component in range(rank - 1, -1, -1):
        lost += inner[component] @ kernels[component].T
        errors[component] = float(np.vdot(lost, lost))
    if errors[0] <= 0:  # of the whole output: what cancels in it may make a part of it larger
        return np.zeros_like(errors), 0.0
    return errors / errors[0], float(errors[0])
