"""How a weight is stored: the identity of an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from onnx_lowrank.types.chains import Ranks

DENSE = "dense"
"""The scheme of a weight that stays as it is."""
SHARED = "shared"
"""The scheme of weights of a shared input: y_i = U_i (V x)."""
OWN = "own"
"""The storage of a weight as the model has it: its element type, and the nodes between it and its operators."""


FactorKey: TypeAlias = tuple[str, str]
"""Site id and scheme: the key of factors."""


@dataclass(frozen=True, slots=True)
class Form:
    """A scheme at its ranks, and how the numbers are stored; what an option is, whatever it costs or loses.

    storage: a number format's name, or one for each stage, first to last, with a slash between. interpolative: of the
    factors' pointwise stages an identity block is not stored (docs/method.md, section 7): the
    same product with rank² numbers fewer.
    """

    scheme: str = DENSE
    ranks: Ranks = ()
    storage: str = OWN
    interpolative: bool = False

    @property
    def unchanged(self) -> bool:
        """Whether the weight stays as it is, numbers included."""
        return self.scheme == DENSE and self.storage == OWN


UNCHANGED = Form()
"""The form that changes nothing; its bytes are the weight's own."""
