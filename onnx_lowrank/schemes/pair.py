"""Two nested factors: what all schemes with a single rank give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.schemes.product import product
from onnx_lowrank.types import Array, Chain, Ranks, Stage


@dataclass(frozen=True, slots=True, eq=False)
class NestedPair:
    """Two factors whose first k components are the best pair of rank k; with groups, the first k of every group.

    first: (groups · r, in, *k₁), last: (out, r, *k₂); exactly one of them carries the kernel and owns the axes.
    errors: (r + 1,) relative squared error at every rank.
    """

    scheme: str
    first: Array
    last: Array
    errors: Array
    first_owns: bool = True
    groups: int = 1

    def error(self, ranks: Ranks) -> float:
        """Return the relative squared error at the site's output."""
        return float(self.errors[ranks[0]])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the two stages at rank `ranks[0]`."""
        axes = tuple(range(self.first.ndim - 2))
        first, last = self._sliced(ranks)
        owns = (axes, ()) if self.first_owns else ((), axes)
        return Chain((Stage(first, owns[0], self.groups), Stage(last, owns[1], self.groups)))

    def dense(self, ranks: Ranks) -> Array:
        """Return last · first, (out, in, *spatial)."""
        return product(self.chain(ranks))

    def _sliced(self, ranks: Ranks) -> tuple[Array, Array]:
        (rank,) = ranks
        by_group = self.first.reshape(self.groups, -1, *self.first.shape[1:])
        first = by_group[:, :rank].reshape(self.groups * rank, *self.first.shape[1:])
        return first.copy(), self.last[:, :rank].copy()

    @staticmethod
    def kept(
        scheme: str, first: Array, last: Array, errors: Array, most: Ranks, *, first_owns: bool, groups: int = 1
    ) -> NestedPair:
        """Return the pair cut to `most` ranks, stored as float32: half the memory, and what the file will hold."""
        (rank,) = most
        by_group = first.reshape(groups, -1, *first.shape[1:])[:, :rank]
        first = by_group.reshape(-1, *first.shape[1:]).astype(np.float32)
        return NestedPair(scheme, first, last[:, :rank].astype(np.float32), errors, first_owns, groups)


def joined(pairs: Sequence[tuple[NestedPair, float]]) -> NestedPair:
    """Return the pairs of all groups as one; with each comes the energy of its outputs, which its errors are shares of.

    A group that is 0 everywhere loses nothing.
    """
    whole = sum(energy for _, energy in pairs)
    lost = sum((pair.errors * energy for pair, energy in pairs), np.zeros_like(pairs[0][0].errors))
    first, last = (np.concatenate([getattr(pair, part) for pair, _ in pairs]) for part in ("first", "last"))
    one = pairs[0][0]
    errors = lost / whole if whole > 0 else np.zeros_like(lost)
    return NestedPair(one.scheme, first, last, errors, one.first_owns, len(pairs))
