"""One side of one site: the bases of every fold and of all samples; the shrinkage loses least where held out.

The smallest of those that lose the same (`rounding.first_least`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnx_lowrank.numerics.gram import weight_gram
from onnx_lowrank.numerics.kronecker_metric import (
    SHRINK,
    WHOLE,
    Basis,
    Exponents,
    SideMoments,
    TwoSidedMetric,
    bases,
    in_metric,
    kronecker,
)
from onnx_lowrank.numerics.rounding import CLOSE, first_least
from onnx_lowrank.types import Array, SideName

TINY = 1e-300
NEGLIGIBLE = 1e-6
"""Losses below this share of the whole are alike: in dead directions they are rounding, which must not choose.

Measured on weights of exact rank: there they are up to 4e-8 of the whole, and another number on every processor.
"""

Each: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], "list[Any]"]
"""(function, items) -> results, in turn or on several threads."""


@dataclass(frozen=True, slots=True, eq=False)
class SideFit:
    """The basis fitted without every fold (float32), that of all samples, and the A ⊗ B score held out."""

    folds: tuple[Basis, ...]
    final: Basis
    kron: Array


def in_turn(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Return the results, one after the other."""
    return [function(item) for item in items]


def cross_fit(
    weight: Array,
    side: SideName,
    held_out: Sequence[SideMoments],
    metric: TwoSidedMetric,
    each: Each,
    groups: int = 1,
    exponents: Exponents = WHOLE,
) -> SideFit:
    """Return what the folds' moments give; `each` runs the folds. Held out counts the loss itself, in any metric."""
    total = held_out[0]
    for part in held_out[1:]:
        total = total + part
    gram = weight_gram(weight, side, groups)
    width = gram.shape[-1]
    rank = min(width, math.prod(weight.shape) // groups // width)

    def without(held: SideMoments) -> tuple[list[Basis], list[Array]]:
        fold = bases(in_metric(total - held, side, gram, metric, exponents), side, gram, rank, SHRINK)
        return [basis.single() for basis in fold], [kronecker(basis, held) for basis in fold]

    tried, losses = zip(*each(without, held_out), strict=True)
    worth = [sum(_worth(loss[i]) for loss in losses) for i in range(len(SHRINK))]
    best = first_least(worth, CLOSE * len(held_out) * rank)
    return SideFit(
        folds=tuple(shrunk[best] for shrunk in tried),
        final=bases(in_metric(total, side, gram, metric, exponents), side, gram, rank, SHRINK[best : best + 1])[0],
        kron=np.mean([loss[best] for loss in losses], axis=0),
    )


def _worth(loss: Array) -> float:
    """Return how much is lost over all ranks, in logarithms: every size counts alike."""
    return float(np.log(np.maximum(loss[1:], NEGLIGIBLE * float(loss[0]) + TINY)).sum())
