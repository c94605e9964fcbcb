"""LSTM, GRU and RNN: W x of all directions and gates at once; what the cell makes of it stays inside the node."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from onnx_lowrank.ops.op import Call, Refusal, StagePosition
from onnx_lowrank.ops.opaque_output import OpaqueOutput
from onnx_lowrank.types import Array, Stage, Why

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS = {0: "constant input", 3: "bias", 4: "lengths", 5: "initial state", 6: "initial cell", 7: "peephole"}


class Recurrent(OpaqueOutput):
    """The input matrix W (directions, gates · hidden, in): MatMuls make the input narrower, and the cell has a new W.

    Directions and gates share the first factor: canonically W is (directions · gates · hidden, in).
    """

    def __init__(self, op_type: str) -> None:
        self.op_type = op_type

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse all but W."""
        if call.slot == 1:
            return None
        if call.slot == 2:
            return Why.RECURRENT, f"{self.op_type} multiplies by it at every step, inside the node"
        return Why.ELEMENTWISE, f"{INPUTS.get(call.slot, 'input')} of {self.op_type}"

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return W as (directions · gates · hidden, in)."""
        return weight.reshape(-1, weight.shape[-1])

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return (directions, gates · hidden, rank) of the last stage, (in, rank) of the others."""
        if position in ("first", "inner"):
            return stage.weight.T
        if stage.passed:
            raise ValueError(f"{call.name or call.output}: no rows can pass through what stays inside the node")
        directions = 2 if call.attributes.get("direction", b"forward") in (b"bidirectional", "bidirectional") else 1
        return stage.weight.reshape(directions, -1, stage.weight.shape[1])

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return at every step (gates · hidden) × in, and × hidden."""
        directions, width, inner = right
        return float(math.prod(left[:-1]) * directions * width * (inner + width // GATES[self.op_type]))

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the gates' rows, of W and of the matrix between steps."""
        return 1 if slot in (1, 2) else None
