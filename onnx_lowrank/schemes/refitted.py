"""Factors of which one rank got another chain."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.schemes.product import product
from onnx_lowrank.schemes.scheme import Factors
from onnx_lowrank.types import Array, Chain, Ranks


@dataclass(frozen=True, slots=True, eq=False)
class Refitted:
    """Factors whose chain at the refitted ranks ends in another factor; at other ranks they are as they were.

    `error` is that of the decomposition everywhere: it saw the original's inputs, the refit those of one plan.
    """

    old: Factors
    ranks: Ranks
    refitted: Chain

    @property
    def scheme(self) -> str:
        """Name of the scheme."""
        return self.old.scheme

    def error(self, ranks: Ranks) -> float:
        """Return the relative squared error of the decomposition, before refitting."""
        return self.old.error(ranks)

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain at these ranks."""
        return self.refitted if ranks == self.ranks else self.old.chain(ranks)

    def dense(self, ranks: Ranks) -> Array:
        """Return the product of the chain, (out, in, *spatial)."""
        if ranks != self.ranks:
            return self.old.dense(ranks)
        return product(self.refitted)
