"""What a scheme is, and the pair of nested factors that most schemes give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_lowrank.curvature import Basis, SideName
from onnx_lowrank.types import Array, Chain, Layout, Moments, Ranks, Stage


class Factors(Protocol):
    """A weight decomposed once: its error and its chain at every rank, by slicing."""

    @property
    def scheme(self) -> str:
        """Name of the scheme."""

    def error(self, ranks: Ranks) -> float:
        """Return the relative squared error at the site's output: 0 at full rank, at most 1."""

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at these ranks."""

    def dense(self, ranks: Ranks) -> Array:
        """Return the product of the chain, (out, in, *spatial): the weight that it stands for."""


class Scheme(Protocol):
    """A way to write W as a product."""

    name: str

    def ranks(self, shape: tuple[int, ...], multiple: int) -> list[Ranks]:
        """Return the ranks that cost fewer parameters than the weight, rising; empty where the scheme does not fit."""

    def layout(self, shape: tuple[int, ...], ranks: Ranks) -> Layout:
        """Return the chain's shapes without computing it."""

    def side(self, shape: tuple[int, ...]) -> SideName:
        """Return the side of the weight that its truncation projects: that of `Basis` which `pair` takes."""

    def pair(self, weight: Array, basis: Basis, errors: Array, most: Ranks) -> NestedPair:
        """Return the factors that a basis stands for; `errors` (r + 1,) are kept as they are."""

    def factor(self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks) -> Factors:
        """Decompose `weight` (out, in, *spatial), keeping no more than `most` ranks, as float32 or its own type.

        The basis is the best in the metric of `fit` (None: the plain one). The errors are those on `score`, samples
        that the basis was not fitted on; None: those of the fit itself, or of the weight alone.
        """


@dataclass(frozen=True, slots=True, eq=False)
class NestedPair:
    """Two factors whose first k components are the best pair of rank k.

    first: (r, in, *k₁), last: (out, r, *k₂); exactly one of them carries the kernel and owns the axes.
    errors: (r + 1,) relative squared error at every rank.
    """

    scheme: str
    first: Array
    last: Array
    errors: Array
    first_owns: bool = True

    def error(self, ranks: Ranks) -> float:
        """Return the relative squared error at the site's output."""
        return float(self.errors[ranks[0]])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the two stages at rank `ranks[0]`."""
        (rank,) = ranks
        axes = tuple(range(self.first.ndim - 2))
        first, last = self.first[:rank].copy(), self.last[:, :rank].copy()
        owns = (axes, ()) if self.first_owns else ((), axes)
        return Chain((Stage(first, owns[0]), Stage(last, owns[1])))

    def dense(self, ranks: Ranks) -> Array:
        """Return last · first, (out, in, *spatial)."""
        (rank,) = ranks
        first, last = self.first[:rank].astype(np.float64), self.last[:, :rank].astype(np.float64)
        if self.first_owns:
            return np.tensordot(last.reshape(len(last), rank), first, axes=1)
        return np.moveaxis(np.tensordot(last, first.reshape(rank, -1), axes=(1, 0)), -1, 1)

    @staticmethod
    def kept(scheme: str, first: Array, last: Array, errors: Array, most: Ranks, *, first_owns: bool) -> NestedPair:
        """Return the pair cut to `most` ranks, stored as float32: half the memory, and what the file will hold."""
        (rank,) = most
        first, last = first[:rank].astype(np.float32), last[:, :rank].astype(np.float32)
        return NestedPair(scheme, first, last, errors, first_owns)


def saving_ranks(most: int, dense: int, each: int, multiple: int) -> list[Ranks]:
    """Return the multiples of `multiple` up to `most` at which `each` parameters a rank stay below `dense`."""
    limit = min(most, math.ceil(dense / each) - 1)
    return [(rank,) for rank in range(multiple, limit + 1, multiple)]


def pointwise(matrix: Array, spatial: int) -> Array:
    """Return a (rows, columns) matrix as a kernel of size 1 on every spatial axis."""
    return np.reshape(matrix, matrix.shape + (1,) * spatial)
