"""How the numbers of a weight or its factors may be stored besides as they are: integers with scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SCALE_BYTES = 4
"""A scale is a float32."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Symmetric integers of `bits`, one scale for every `block` inputs of an output; block 0: one for each output.

    opset: the first that has what unpacks them. name: what a form's `storage` says.
    """

    name: str
    bits: int
    block: int
    opset: int

    @property
    def high(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1) - 1)

    def bytes(self, shape: Sequence[int], channels: int = 0) -> int:
        """Return the bytes of a stage (out, in, *spatial) and its scales. channels: the axis that has a scale each."""
        scales = shape[channels]
        if self.block:
            scales = shape[0] * math.ceil(shape[1] / self.block) * math.prod(shape[2:])
        return math.ceil(math.prod(shape) * self.bits / 8) + SCALE_BYTES * scales


INT8 = NumberFormat("int8", 8, 0, 13)
INT4 = NumberFormat("int4", 4, 32, 21)
FORMATS = {each.name: each for each in (INT8, INT4)}
"""By name; the more bits the earlier."""
