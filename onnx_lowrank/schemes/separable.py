"""A k₁×k₂×… convolution as k₁×1×… to `rank` channels, then 1×k₂×…: W as a matrix (in · k₁) × (out · k₂ …).

The pair is the truncated singular value decomposition of A^½ W B^½ (Jaderberg et al., arXiv 1405.3866, here in the
two-sided metric): A the second moment of the input channels on the rows, B that of the outputs' gradients on the
columns. As in `kernel_last` that neglects how neighbouring positions are correlated, so it is the basis that is
approximate; its losses are measured on samples (`calibration.through`), its errors on patches.
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.schemes.kernel_last import FLOOR, enveloped, lost_at_ranks
from onnx_lowrank.schemes.nested_pair import NestedPair
from onnx_lowrank.schemes.scheme import Unprojected, ranks_below
from onnx_lowrank.types import Array, Layout, Moments, Ranks

TINY = 1e-12
"""Components weaker than this share of the strongest are scaled as if they were as strong."""


class Separable(Unprojected):
    """A convolution over two or three axes as one over the first and one over the others; one group only."""

    name = "separable"
    splits = True

    def ranks(self, shape: tuple[int, ...], multiple: int, groups: int = 1) -> list[Ranks]:
        """Return the ranks below the full one."""
        if groups > 1 or len(shape) < 4 or shape[2] == 1 or math.prod(shape[3:]) == 1:
            return []
        before, after = shape[1] * shape[2], shape[0] * math.prod(shape[3:])
        return ranks_below(min(before, after), multiple)

    def layout(self, shape: tuple[int, ...], ranks: Ranks, groups: int = 1) -> Layout:
        """Return (rank, in, k₁, 1…) then (out, rank, 1, k₂…)."""
        (rank,) = ranks
        first, rest = _owned(len(shape) - 2)
        ones = tuple(1 for _ in rest)
        return (((rank, *shape[1:3], *ones), first), ((shape[0], rank, 1, *shape[3:]), rest))

    def factor(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int = 1
    ) -> NestedPair:
        """Return the pair in the metric of the input channels."""
        first, last, errors = _whole(weight, None if fit is None else fit.A, None)
        measured = score or fit
        if measured is not None and measured.patches is not None:
            patches = np.asarray(measured.patches, np.float64)
            flat = patches.reshape(*patches.shape[:3], -1)  # (n, in, k₁, k₂ …)
            inner = np.einsum("rih,nihw->rnw", first.reshape(*first.shape[:3]), flat, optimize=True)
            measured_errors, _ = lost_at_ranks(inner, np.moveaxis(last, 1, 0).reshape(len(first), len(last), -1))
            errors = enveloped(measured_errors)
        return NestedPair.kept(self.name, first, last, errors, most, owns=_owned(weight.ndim - 2))

    def chained(self, weight: Array, A: Array | None, B: Array | None, most: Ranks) -> NestedPair:
        """Return the pair in the metric of A (in, in) and B (out, out); None is the identity; errors are in it.

        The scale of a component is shared by both factors, so that neither overflows a narrow number type.
        """
        first, last, errors = _whole(weight, A, B)
        return NestedPair.kept(self.name, first, last, errors, most, owns=_owned(weight.ndim - 2))


def _whole(weight: Array, A: Array | None, B: Array | None) -> tuple[Array, Array, Array]:
    """Return both factors at full rank, (r, in, k₁, 1…) and (out, r, 1, k₂…), and the errors (r + 1,) in the metric."""
    rows, columns = weight.shape[:2]
    W = np.asarray(weight, np.float64).reshape(*weight.shape[:3], -1)
    root_in, inverse_in = linalg.roots(A, FLOOR) if A is not None else (np.eye(columns), np.eye(columns))
    root_out, inverse_out = linalg.roots(B, FLOOR) if B is not None else (np.eye(rows), np.eye(rows))
    scaled = np.einsum("po,oihw,ij->jhpw", root_out, W, root_in, optimize=True)
    flat = scaled.reshape(columns * W.shape[2], -1)
    singular, left = linalg.svd(flat)
    right = left.T @ flat  # (r, out · k₂), with the singular values
    balance = np.sqrt(np.maximum(singular, TINY * max(float(singular[0]), TINY)))
    first = np.einsum("jhr,ji->rih", left.reshape(columns, W.shape[2], -1) * balance, inverse_in)
    last = np.einsum("rpw,po->orw", right.reshape(len(right), rows, -1) / balance[:, None, None], inverse_out)
    ones = (1,) * (weight.ndim - 3)
    first = first.reshape(*first.shape, *ones)
    return first, last.reshape(rows, -1, 1, *weight.shape[3:]), linalg.relative(linalg.tails(singular**2))


def _owned(axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (0,), tuple(range(1, axes))
