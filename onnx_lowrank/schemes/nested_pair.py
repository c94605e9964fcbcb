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

    first: (groups · r, in, *k₁), last: (out, r, *k₂); owns: the axes of each, on which the other's kernel is 1.
    errors: (r + 1,) relative squared error at every rank.
    """

    scheme: str
    first: Array
    last: Array
    errors: Array
    owns: tuple[tuple[int, ...], tuple[int, ...]]
    groups: int = 1

    def error(self, ranks: Ranks) -> float:
        """Return the relative squared error at the site's output."""
        return float(self.errors[ranks[0]])

    def chain(self, ranks: Ranks) -> Chain:
        """Return the two stages at rank `ranks[0]`."""
        first, last = self._sliced(ranks)
        return Chain((Stage(first, self.owns[0], self.groups), Stage(last, self.owns[1], self.groups)))

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
        scheme: str,
        first: Array,
        last: Array,
        errors: Array,
        most: Ranks,
        *,
        owns: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        groups: int = 1,
    ) -> NestedPair:
        """Return the pair cut to `most` ranks, stored as float32: half the memory, and what the file will hold.

        owns: None gives the first all axes.
        """
        (rank,) = most
        by_group = first.reshape(groups, -1, *first.shape[1:])[:, :rank]
        first = by_group.reshape(-1, *first.shape[1:]).astype(np.float32)
        owns = owns or (tuple(range(first.ndim - 2)), ())
        return NestedPair(scheme, first, last[:, :rank].astype(np.float32), errors, owns, groups)


def joined(pairs: Sequence[tuple[NestedPair, float]]) -> NestedPair:
    """Return the pairs of all groups as one; with each comes the energy of its outputs, which its errors are shares of.

    A group that is 0 everywhere loses nothing.
    """
    whole = sum(energy for _, energy in pairs)
    lost = sum((pair.errors * energy for pair, energy in pairs), np.zeros_like(pairs[0][0].errors))
    first, last = (np.concatenate([getattr(pair, part) for pair, _ in pairs]) for part in ("first", "last"))
    first_pair = pairs[0][0]
    errors = lost / whole if whole > 0 else np.zeros_like(lost)
    return NestedPair(first_pair.scheme, first, last, errors, first_pair.owns, len(pairs))
