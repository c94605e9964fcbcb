"""The singular values of a weight as a scheme sees it: plain, in no metric."""

from __future__ import annotations

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.schemes.scheme import Scheme
from onnx_lowrank.types import Array


def spectrum(scheme: Scheme, weight: Array, groups: int = 1) -> Array:
    """Return the singular values (r,), largest first, of the matrix that the scheme truncates.

    weight: (out, in, *k). The side that the scheme projects makes the rows, all else the columns: out × (in · k) where
    the kernel comes first (and for a plain matrix), in × (out · k) where it comes last. Of groups, which are all cut at
    one rank, the largest value of every rank: the spectral norm of a block-diagonal matrix is that of its worst block.
    Raises ValueError for a scheme that truncates more than one matrix.
    """
    (side,) = scheme.sides(weight.shape, groups)
    parts = np.split(np.asarray(weight, np.float64), groups)
    rows = (np.moveaxis(part, 0 if side == "out" else 1, 0) for part in parts)
    return np.asarray(np.max([linalg.svd(part.reshape(len(part), -1))[0] for part in rows], axis=0))
