"""The singular values of a weight as a scheme sees it: plain, in no metric."""

from __future__ import annotations

import numpy as np

from onnx_lowrank import linalg
from onnx_lowrank.schemes.base import Scheme
from onnx_lowrank.types import Array


def spectrum(scheme: Scheme, weight: Array) -> Array:
    """Return the singular values (r,), largest first, of the matrix that the scheme truncates.

    weight: (out, in, *k). The side that the scheme projects makes the rows, all else the columns: out × (in · k) where
    the kernel comes first (and for a plain matrix), in × (out · k) where it comes last.
    """
    axis = 0 if scheme.side(weight.shape) == "out" else 1
    rows = np.moveaxis(np.asarray(weight, np.float64), axis, 0)
    return linalg.svd(rows.reshape(len(rows), -1))[0]
