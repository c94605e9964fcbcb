"""Every input channel by itself: k×k depthwise to `rank` channels each, then 1×1 from all in · rank to the outputs.

ALDS (Liebenwein et al., arXiv 2107.11442) cuts the input channels into g slices with a truncated singular value
decomposition each: a convolution in g groups, then a dense 1×1. Here g = in, as in Guo et al. (arXiv 1808.05517): the
weight (out, k) of a channel becomes W_i write_i read_iᵀ, the best in the metric of its taps and of the gradients B at
the outputs, by the eigenvectors of A_i^½ (W_iᵀ B W_i) A_i^½. A_i is the second moment of the channel's k taps where
patches are known, else a multiple of the identity. What channels lose adds up in the output, and they are correlated:
the basis is approximate; its losses are measured on samples (`collection.chain_components`), its errors on patches.

Against the best of the other schemes at equal parameters, g = 2 … in: on matrices and 1×1 kernels slices lose 1.2 to
1.9 times as much (A ⊗ B, medians of 64 weights of two networks), on 1×3 and 3×3 kernels they lose more as well. On
kernels of 64 taps (CREPE) they lose as much to a hundred times less, the less the more slices, but not where the inputs
are eight times as many as the outputs.

It is small, not fast: with a fifth of the dense kernel's parameters onnxruntime's CPU provider takes 1.3 times as long,
with four fifths 1.8 times (CREPE's, one thread). Where latency is a goal it is timed like all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.schemes.kernel_last import FLOOR, enveloped, lost_at_ranks
from onnx_lowrank.schemes.product import product
from onnx_lowrank.schemes.scheme import Unprojected, multiple_in, pointwise, ranks_below
from onnx_lowrank.types import Array, Chain, Layout, Moments, Ranks, Stage

FEW_TAPS = 9
"""Kernels of so many taps or fewer are left to the other schemes."""


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """A weight, and a projection write_i read_iᵀ of the taps of every input channel i.

    read, write: (in, k, r), strongest first. The outputs' factor, about as large as the weight, is computed when
    it is needed. errors: (r + 1,) relative squared error at every rank.
    """

    weight: Array
    read: Array
    write: Array
    errors: Array
    scheme: str = "channelwise"

    def error(self, ranks: Ranks) -> float:
        """Return the relative squared error at the site's output."""
        return float(self.errors[ranks[0]])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the two stages: (in · rank, 1, *k) in `in` groups, (out, in · rank, 1…), float32."""
        (rank,) = ranks
        rows, channels, *kernel = self.weight.shape
        first = np.swapaxes(self.read[:, :, :rank], 1, 2).reshape(channels * rank, 1, *kernel)
        last = pointwise(self._outputs(rank).reshape(rows, channels * rank), len(kernel))
        axes = tuple(range(len(kernel)))
        return Chain((Stage(first.astype(np.float32), axes, channels), Stage(last)))

    def dense(self, ranks: Ranks) -> Array:
        """Return the product, (out, in, *spatial)."""
        return product(self.chain(ranks))

    def components(self) -> tuple[Array, Array]:
        """Return first (in, r, k) and last (out, in, r) at full rank."""
        return np.swapaxes(self.read, 1, 2), self._outputs(self.read.shape[2])

    def _outputs(self, rank: int) -> Array:
        """Return W_i write_i of every channel, (out, in, rank), float32: a channel at a time, as it is large."""
        rows, channels = self.weight.shape[:2]
        last = np.empty((rows, channels, rank), np.float32)
        for i in range(channels):
            last[:, i] = np.asarray(self.weight[:, i], np.float64).reshape(rows, -1) @ self.write[i, :, :rank]
        return last


class Channelwise(Unprojected):
    """A convolution with many taps and no more inputs than outputs, one group, as a depthwise one and a 1×1."""

    name = "channelwise"
    splits = False

    def ranks(self, shape: tuple[int, ...], multiple: int, groups: int = 1) -> list[Ranks]:
        """Return the ranks of a channel below the full one."""
        rows, columns, taps = shape[0], shape[1], math.prod(shape[2:])
        if groups > 1 or taps <= FEW_TAPS or not 1 < columns <= rows:
            return []
        return ranks_below(min(rows, taps), multiple_in(multiple, columns))

    def layout(self, shape: tuple[int, ...], ranks: Ranks, groups: int = 1) -> Layout:
        """Return (in · rank, 1, *k) then (out, in · rank, 1…)."""
        inner = shape[1] * ranks[0]
        axes = tuple(range(len(shape) - 2))
        return (((inner, 1, *shape[2:]), axes), ((shape[0], inner, *(1 for _ in axes)), ()))

    def factor(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int = 1
    ) -> Channels:
        """Return the factors in the metric of every channel's taps."""
        read, write, energies = _bases(weight, _by_channel(fit), None)
        errors = linalg.relative(linalg.tails(energies.sum(0)))
        inputs = _by_channel(score or fit)
        if inputs is not None:
            first, last = Channels(weight, read, write, errors).components()
            inner = np.moveaxis(first @ inputs, (0, 1, 2), (2, 0, 1))  # (r, n, in)
            errors = enveloped(lost_at_ranks(inner, np.moveaxis(last, 2, 0))[0])
        return _cut(weight.astype(np.float32), read, write, errors, most)

    def chained(self, weight: Array, A: Array | None, B: Array | None, most: Ranks) -> Channels:
        """Return the factors in the metric of A (in, in) and B (out, out), second moments; None is the identity.

        Their errors are those in this metric, were channels not correlated: of A the diagonal.
        """
        read, write, energies = _bases(weight, None, B)
        summed = energies.sum(0) if A is None else A.diagonal() @ energies
        return _cut(weight, read, write, linalg.relative(linalg.tails(summed)), most)


def _cut(weight: Array, read: Array, write: Array, errors: Array, most: Ranks) -> Channels:
    (rank,) = most
    kept = read[:, :, :rank].copy()
    return Channels(weight, kept, kept if write is read else write[:, :, :rank].copy(), errors)


def _by_channel(moments: Moments | None) -> Array | None:
    """Return the patches as (in, k, n), None where there are none."""
    if moments is None or moments.patches is None:
        return None
    patches = np.asarray(moments.patches, np.float64)
    return np.moveaxis(patches.reshape(*patches.shape[:2], -1), 0, -1)


def _bases(weight: Array, inputs: Array | None, B: Array | None) -> tuple[Array, Array, Array]:
    """Return read and write (in, k, r), W_i ≈ W_i write_i read_iᵀ, and every component's energy (in, r).

    float32: three folds of several sites are in memory. Without a metric of the taps, read and write are the same.
    """
    channels = [_basis(weight[:, i], None if inputs is None else inputs[i], B) for i in range(weight.shape[1])]
    reads, writes, energies = zip(*channels, strict=True)
    read = np.stack(reads)
    return read, read if inputs is None else np.stack(writes), np.stack(energies)


def _basis(weight: Array, inputs: Array | None, B: Array | None) -> tuple[Array, Array, Array]:
    """Return read and write (k, r) and energies (r,) of one channel: weight (out, *k), inputs (k, n)."""
    W = np.asarray(weight, np.float64).reshape(len(weight), -1)
    inner = W.T @ (W if B is None else B @ W)
    rank = min(W.shape)
    if inputs is None:
        values, vectors = linalg.eigen(inner)
        read = write = vectors[:, :rank].astype(np.float32)
    else:
        root, inverse = linalg.roots(inputs @ inputs.T, FLOOR)
        values, vectors = linalg.eigen(root @ inner @ root)
        read, write = ((side @ vectors[:, :rank]).astype(np.float32) for side in (inverse, root))
    return read, write, values[:rank]
