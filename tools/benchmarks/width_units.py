"""Which units to keep between two constant maps, and how the next map makes up for the rest. Pure arrays.

A map reads units z (its inputs, or what is multiplied with its outputs); e is the gradient of the loss there. To keep
the units J and let the map make up for the others is the projection Π z = T z_J, T = C_:J C_JJ⁻¹ by least squares,
C = E z zᵀ. It loses ½ tr(M (1 − Π) C (1 − Π)ᵀ), M = E e eᵀ: the two-sided metric, as e = Wᵀ g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[Any]
COMPACT = 0.8
"""Matrices are made smaller where less than this share of them is still there."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Π = write readᵀ, write (groups, d, k), of every group by itself; one group: of all units together.

    read: (groups, d, k), or (groups, k) where it takes units as they are.
    """

    read: Array
    write: Array

    def of(self, rows: Array, group: int) -> Array:
        """Return (…, k) readᵀ z of a group, of rows (…, d)."""
        read = self.read[group]
        return rows[:, read] if read.ndim == 1 else rows @ read.astype(rows.dtype)

    @property
    def matrix(self) -> Array:
        """Π, (groups, d, d)."""
        if self.read.ndim == 3:
            return self.write @ np.swapaxes(self.read, 1, 2)
        matrix = np.zeros((*self.write.shape[:2], self.write.shape[1]))
        for own, units, write in zip(matrix, self.read, self.write, strict=True):
            own[:, units] = write
        return matrix


def shrunk(moment: Array, share: float) -> Array:
    """Return a second moment with a share of its mean eigenvalue added to all of them."""
    return moment + max(share * float(np.trace(moment)) / len(moment), 1e-30) * np.eye(len(moment))


def crude(C: Array, M: Array) -> list[Array]:
    """Return the order in which units go, last kept first: pivoted QR of C^½ with columns weighted by √M_jj."""
    values, vectors = np.linalg.eigh(C)
    half = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    pivots = scipy.linalg.qr(half * np.sqrt(np.maximum(M.diagonal(), 0.0)), mode="r", pivoting=True)[1]
    return [np.array([unit]) for unit in pivots[::-1]]


def greedy(C: Array, M: Array, *, blocks: int = 0, whole: bool = False) -> list[Array]:
    """Return the order in which units go: each time those whose going loses least, all others refitted.

    blocks: 0, any unit may go; else units are in so many equal blocks, of which each loses as many, or (`whole`) those
    of a block go together.
    """
    if whole:
        return _whole(C, M, blocks)
    G, N = np.asfortranarray(np.linalg.inv(C)), np.asfortranarray(M.copy())
    alive, places, order = np.arange(len(C)), np.arange(len(C)), list[Array]()
    block = places * blocks // len(C)
    gone = np.zeros(len(C), bool)
    lost = np.zeros(max(blocks, 1), int)
    syr, syr2 = scipy.linalg.blas.dsyr, scipy.linalg.blas.dsyr2
    for _ in range(len(C) - 1):
        loss = N.diagonal() / np.maximum(G.diagonal(), 1e-300)
        loss = np.where(gone[alive], np.inf, loss)
        if blocks:
            loss = np.where(lost[block[alive]] > lost.min(), np.inf, loss)
        j = int(np.argmin(loss))
        g, n = (np.concatenate([A[j, :j], A[j:, j]]) for A in (G, N))
        v = g / g[j]
        u = n - 0.5 * n[j] * v
        N = syr2(-1.0, u, v, a=N, lower=1, overwrite_a=1)
        G = syr(-g[j], v, a=G, lower=1, overwrite_a=1)
        order.append(alive[j : j + 1])
        gone[alive[j]] = True
        if blocks:
            lost[block[alive[j]]] += 1
        left = np.flatnonzero(~gone[alive])
        if len(left) < COMPACT * len(alive):
            G, N = (np.asfortranarray(A[np.ix_(left, left)]) for A in (G, N))
            alive = alive[left]
    return order


def _whole(C: Array, M: Array, blocks: int) -> list[Array]:
    G, N, order, left = np.linalg.inv(C), M.copy(), list[Array](), list(range(blocks))
    units = np.arange(len(C)).reshape(blocks, -1)
    while len(left) > 1:
        loss = [float(np.trace(np.linalg.solve(G[np.ix_(K, K)], N[np.ix_(K, K)]))) for K in units[left]]
        K = units[left.pop(int(np.argmin(loss)))]
        V = np.linalg.solve(G[np.ix_(K, K)], G[K])
        N = N - N[:, K] @ V - V.T @ N[K] + V.T @ N[np.ix_(K, K)] @ V
        G = G - G[:, K] @ V
        order.append(K)
    return order


def kept(order: Sequence[Array], count: int, size: int) -> Array:
    """Return the units (sorted) of which `count` are left, of `size`."""
    going = np.concatenate(list(order)) if order else np.zeros(0, int)
    return np.setdiff1d(np.arange(size), going[: size - count])


def refitted(C: Array, read: Array) -> Array:
    """Return (d, k) T that makes up best for what readᵀ z does not hold."""
    across = C @ read
    return np.asarray(scipy.linalg.solve(read.T @ across, across.T, assume_a="pos").T)


def selected(C: Array, units: Array) -> tuple[Array, Array]:
    """Return read and write of keeping some units."""
    return units, np.asarray(scipy.linalg.solve(C[np.ix_(units, units)], C[units], assume_a="pos").T)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What single samples saw at a side. starts: where each begins in z, e (rows, groups · d); or products Σ z eᵀ."""

    scales: Array
    groups: int
    starts: Array | None = None
    z: Array | None = None
    e: Array | None = None
    products: Array | None = None

    @staticmethod
    def of(samples: Sequence[tuple[float, tuple[Array, ...]]], groups: int) -> Seen:
        """Take (weight, cached sample) pairs."""
        scales = np.array([1 / np.sqrt(weight) for weight, _ in samples])
        if all(len(sample) == 1 for _, sample in samples):
            stacked = np.stack([sample[0] for _, sample in samples])
            return Seen(scales, groups, products=stacked.reshape(len(stacked), groups, *stacked.shape[-2:]))
        if any(len(sample) == 1 for _, sample in samples):  # texts of different lengths
            return Seen(scales, groups, products=np.stack([_product(sample, groups) for _, sample in samples]))
        z, e = (np.concatenate([sample[i] for _, sample in samples]) for i in range(2))
        starts = np.cumsum([0, *(len(sample[0]) for _, sample in samples[:-1])])
        return Seen(scales, groups, starts, z, e)

    def tails(self, projection: Projection) -> Array:
        """Return (samples,) −⟨Γ_s, δ⟩ = Σ eᵀ (1 − Π) z."""
        if self.products is not None:
            change = self.products * 1.0
            rest = np.swapaxes(np.eye(change.shape[-1]) - projection.matrix, 1, 2).astype(np.float32)
            total = np.einsum("sgij,gij->s", change, rest, optimize=True)
        else:
            assert self.z is not None
            assert self.e is not None
            z, e = (rows.reshape(len(rows), self.groups, -1) for rows in (self.z, self.e))
            rows = np.einsum("tgd,tgd->t", z, e)
            for g in range(self.groups):
                rows = rows - (projection.of(z[:, g], g) * (e[:, g] @ projection.write[g].astype(np.float32))).sum(1)
            total = np.add.reduceat(rows.astype(np.float64), self.starts)
        return np.asarray(total * self.scales, np.float64)


def _product(sample: tuple[Array, ...], groups: int) -> Array:
    if len(sample) == 1:
        return sample[0].reshape(groups, *sample[0].shape[-2:])
    z, e = (rows.reshape(len(rows), groups, -1) for rows in sample)
    return np.einsum("tgi,tgj->gij", z, e)


def projected(weight: Array, projection: Projection, side: str) -> Array:
    """Return W Π on the inputs, Π W on the outputs; weight (out, in, *kernel), its groups those of the projection."""
    Pi = projection.matrix
    by_group = weight.reshape(len(Pi), len(weight) // len(Pi), weight.shape[1], -1).astype(np.float64)
    subscripts = "gba,gaik->gbik" if side == "out" else "goak,gai->goik"
    operands = (Pi, by_group) if side == "out" else (by_group, Pi)
    return np.einsum(subscripts, *operands, optimize=True).reshape(weight.shape)
