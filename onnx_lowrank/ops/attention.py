"""onnxruntime's Attention: queries, keys and values are W x, made inside the node."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from onnx_lowrank.ops.op import Call, Refusal, StagePosition
from onnx_lowrank.ops.opaque_output import OpaqueOutput
from onnx_lowrank.types import Array, Stage, Why


class Attention(OpaqueOutput):
    """The weights (in, queries + keys + values): MatMuls make the input narrower; it need not be as wide as the heads.

    Queries, keys and values share the first factor.
    """

    op_type = "com.microsoft.Attention"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse the biases, and weights that other inputs hold."""
        if call.slot == 1:
            return None
        return Why.ELEMENTWISE, "bias of Attention" if call.slot == 2 else "constant input of Attention"

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the weights as (out, in)."""
        return weight.T

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return (in, out), of every stage."""
        return stage.weight.T

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return W x, and every query times every key, every weight times every value."""
        return float(math.prod(left[:-1]) * right[1] * (left[2] + left[1] * 2 / 3))
