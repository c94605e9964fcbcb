"""A matrix that is read both ways, y = W x and y = Wᵀ h (a table that is also an output layer), as one pair.

A basis of the outputs of W gives both: Ŵ = Π W is Wᵀ Πᵀ the other way. What is lost there, E|Wᵀ (1 − Πᵀ) h|², is
tr(E h hᵀ (1 − Π) W Wᵀ (1 − Π)ᵀ), so W Wᵀ takes the place of y yᵀ and h hᵀ that of the gradient's moment. Both ways
count alike, by what they lose of their own outputs.
"""

from __future__ import annotations

import numpy as np

from onnx_lowrank.numerics.kronecker_metric import Basis, SideMoments, bases, kronecker
from onnx_lowrank.numerics.rounding import CLOSE, first_least
from onnx_lowrank.types import Array, Moments

TINY = 1e-12


def tied_pair(
    weight: Array, fit: Moments | None, score: Moments | None, rank: int, shrinks: tuple[float, ...]
) -> tuple[Basis, Array]:
    """Return the basis (out, rank) that loses least of those of all shrinkages, and its errors (rank + 1,)."""
    gram = weight @ weight.T
    fitted = _moments(fit, gram)
    tried = bases(fitted, "out", gram, rank, shrinks if fit is not None and score is not None else shrinks[:1])
    errors = [_relative(kronecker(basis, _moments(score or fit, gram))) for basis in tried]
    best = first_least([float(np.log(np.maximum(error, TINY)).sum()) for error in errors], CLOSE * rank)
    return tried[best], errors[best]


def _moments(moments: Moments | None, gram: Array) -> SideMoments:
    """Return each way's moments as shares of its energy; without samples those of the plain weight."""
    unit = np.eye(len(gram))
    plain = SideMoments(_share(gram, gram), unit, 1, 1)
    if moments is None:
        return plain
    C = plain.Z if moments.C is None else _share(moments.C, moments.C)
    transposed = None if moments.H is None else SideMoments(_share(gram, gram @ moments.H), moments.H, 1, 1)
    return SideMoments(C, unit, 1, 1, transposed)


def _share(moment: Array, energy: Array) -> Array:
    return moment / max(float(energy.trace()), 1e-300)


def _relative(losses: Array) -> Array:
    return losses / losses[0] if losses[0] > 0 else np.zeros_like(losses)
