"""onnxruntime's Attention: queries, keys and values are W x, made inside the node."""

from __future__ import annotations

from typing import Any

from onnx_lowrank.ops.op import (
    Call,
    Observable,
    Place,
    Refusal,
    divisible,
    no_patches,
    one_group,
    rows_of_input,
    unscaled,
)
from onnx_lowrank.ops.opaque_output import every_row, first_input, narrowed, no_linear, no_results
from onnx_lowrank.types import Array, Stage, Why


class Attention:
    """The weights (in, queries + keys + values): MatMuls make the input narrower; it need not be as wide as the heads.

    Queries, keys and values share the first factor.
    """

    op_type = "com.microsoft.Attention"
    seen: Observable = "inputs"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse the biases, and weights that other inputs hold."""
        if call.slot == 1:
            return None
        return Why.ELEMENTWISE, "bias of Attention" if call.slot == 2 else "constant input of Attention"

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the weights as (out, in)."""
        return weight.T

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return (in, out), of every stage."""
        return stage.weight.T

    def role(self, call: Call) -> tuple[Any, ...]:
        """Any of them may share weights."""
        return (self.op_type,)

    groups = staticmethod(one_group)
    whole = staticmethod(divisible)
    patches = staticmethod(no_patches)
    scale = staticmethod(unscaled)
    data = staticmethod(first_input)
    positions = staticmethod(every_row)
    vectors = staticmethod(rows_of_input)
    results = staticmethod(no_results)
    linear = staticmethod(no_linear)
    write = staticmethod(narrowed)
