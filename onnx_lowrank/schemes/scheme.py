"""What a scheme is, and what decompositions give: a weight's error and its chain at every rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from onnx_lowrank.numerics.kronecker_metric import Basis
from onnx_lowrank.types import Array, Chain, Layout, Moments, Ranks, SideName

MOST = 64
"""Ranks offered of a scheme with one rank, at most."""


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
        """Return the product of the chain, (out, in, *spatial): the weight that it represents."""


class FittedSide(NamedTuple):
    """A side of a weight: a basis fitted for it, and (r + 1,) the relative squared error of every rank in it."""

    basis: Basis
    errors: Array


FittedSides: TypeAlias = Mapping[SideName, FittedSide]


class Scheme(Protocol):
    """A way to write W as a product. Ranks are those of every group where W is grouped (block-diagonal).

    Most schemes project sides of the weight: `sides` names them, and bases of the sides give the factors (`cut`).
    """

    name: str
    splits: bool
    """Whether different stages own different axes."""

    def ranks(self, shape: tuple[int, ...], multiple: int, groups: int = 1) -> list[Ranks]:
        """Return the ranks below the full one, rising; empty where the scheme does not fit.

        Which of them cost fewer parameters than the weight hangs on how the factors are stored (`offered`).
        """

    def layout(self, shape: tuple[int, ...], ranks: Ranks, groups: int = 1) -> Layout:
        """Return the chain's shapes without computing it."""

    def sides(self, shape: tuple[int, ...], groups: int = 1) -> tuple[SideName, ...]:
        """Return the sides of the weight that its truncation projects, one for each of its ranks, in their order.

        None for a `ChainScheme`.
        """

    def cut(self, weight: Array, sides: FittedSides, most: Ranks, groups: int = 1) -> Factors:
        """Return the factors of the bases of these sides; their errors are kept as they are."""

    def factor(
        self, weight: Array, fit: Moments | None, score: Moments | None, most: Ranks, groups: int = 1
    ) -> Factors:
        """Decompose `weight` (out, in, *spatial), keeping no more than `most` ranks, as float32 or its own type.

        The basis is the best in the metric of `fit` (None: the plain one). The errors are those on `score`, samples
        that the basis was not fitted on; None: those of the fit itself, or of the weight alone.
        """


@runtime_checkable
class ChainScheme(Scheme, Protocol):
    """A scheme with one rank that projects no side: its components are scored through the chain itself."""

    def chained(self, weight: Array, A: Array | None, B: Array | None, most: Ranks) -> Factors:
        """Return the factors in the metric of A (in, in) and B (out, out), second moments; None is the identity.

        Its errors are those in this metric.
        """


class Unprojected:
    """Of a `ChainScheme`: what it truncates is no side of the weight."""

    name: str

    def sides(self, shape: tuple[int, ...], groups: int = 1) -> tuple[SideName, ...]:
        """Return none."""
        return ()

    def cut(self, weight: Array, sides: FittedSides, most: Ranks, groups: int = 1) -> Factors:
        """Raise: its factors are no projection on a side; see `chained`."""
        raise TypeError(f"{self.name}: not cut from a basis of one side")


def ranks_below(full: int, multiple: int) -> list[Ranks]:
    """Return the multiples of `multiple` below the full rank."""
    return [(rank,) for rank in range(multiple, full, multiple)]


def thinned(options: list[Ranks]) -> list[Ranks]:
    """Return at most MOST of a scheme's single ranks, the first and the last among them, evenly spaced."""
    if len(options) <= MOST:
        return options
    return [options[round(place)] for place in np.linspace(0, len(options) - 1, MOST)]


def multiple_in(multiple: int, groups: int) -> int:
    """Return the multiple of one group's rank: what counts for speed is the width of all groups together."""
    return math.ceil(multiple / groups)


def largest(options: Sequence[Ranks]) -> Ranks:
    """Return the largest of every rank."""
    return tuple(map(max, zip(*options, strict=True)))


def pointwise(matrix: Array, spatial: int) -> Array:
    """Return a (rows, columns) matrix as a kernel of size 1 on every spatial axis."""
    return np.reshape(matrix, matrix.shape + (1,) * spatial)


def of_group(moments: Moments | None, group: int, groups: int) -> Moments | None:
    """Return what one group saw: its diagonal blocks."""
    if moments is None or groups == 1:
        return moments

    def block(matrix: Array) -> Array:
        width = len(matrix) // groups
        return matrix[group * width : (group + 1) * width, group * width : (group + 1) * width]

    patches = moments.patches
    if patches is not None:
        width = patches.shape[1] // groups
        patches = patches[:, group * width : (group + 1) * width]
    C = None if moments.C is None else block(moments.C)
    return replace(moments, A=block(moments.A), C=C, patches=patches)
