"""Second moments of samples and of weights, formed by parts."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg.blas

from onnx_lowrank.types import Array, SideName

LARGE = 2**21
"""Weights with more parameters than this are processed one at a time: float64 takes six copies of each."""


def add_gram(total: Array, vectors: Array, scale: int) -> None:
    """Add Σ v vᵀ · scale to the upper triangle of `total`: a symmetric rank-k update in the vectors' own precision
    (float32 or float64), half a product's work.

    total: (d, d), or (groups, d, d) of vectors (positions, groups · d): the diagonal blocks alone.
    """
    if total.ndim == 3:
        for block, part in zip(total, np.split(vectors, len(total), axis=1), strict=True):
            add_gram(block, np.ascontiguousarray(part), scale)
    elif len(vectors):
        columns = vectors.flags.f_contiguous  # as images are: nothing is copied either way
        update = scipy.linalg.blas.get_blas_funcs("syrk", (vectors,))
        with np.errstate(all="ignore"):  # what overflows is seen in the sums
            total += scale * update(1.0, vectors if columns else vectors.T, trans=int(columns))


def mirror(upper: Array) -> None:
    """Make (…, d, d), of which the lower triangle is zero, symmetric."""
    with np.errstate(all="ignore"):  # as in `add_gram`
        upper += np.swapaxes(np.triu(upper, 1), -1, -2)


def weight_gram(weight: Array, side: SideName, groups: int = 1) -> Array:
    """Return W Wᵀ on the outputs, Wᵀ W on the inputs, in float64; by parts, so that nothing is copied whole.

    With groups, of every group: (groups, d, d).
    """
    if groups > 1:
        return np.stack([weight_gram(part, side) for part in np.split(weight, groups)])
    if side == "out":
        columns = weight.reshape(weight.shape[0], -1)
        parts = (part.T.astype(np.float64) for part in np.array_split(columns, math.ceil(weight.size / LARGE), axis=1))
    else:
        rows = np.array_split(weight, math.ceil(weight.size / LARGE))
        parts = (np.moveaxis(part, 1, -1).reshape(-1, weight.shape[1]).astype(np.float64) for part in rows)
    gram = np.zeros((weight.shape[0 if side == "out" else 1],) * 2)
    for tall in parts:
        gram += tall.T @ tall
    return gram
