"""LSTM, GRU and RNN: W x of all directions and gates at once; what the cell makes of it stays inside the node."""

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

INPUTS = {0: "constant input", 3: "bias", 4: "lengths", 5: "initial state", 6: "initial cell", 7: "peephole"}


class Recurrent:
    """The input matrix W (directions, gates · hidden, in): MatMuls make the input narrower, and the cell has a new W.

    Directions and gates share the first factor: canonically W is (directions · gates · hidden, in).
    """

    seen: Observable = "inputs"

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

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return (directions, gates · hidden, rank) of the last stage, (in, rank) of the others."""
        if place in ("first", "inner"):
            return stage.weight.T
        directions = 2 if call.attributes.get("direction", b"forward") in (b"bidirectional", "bidirectional") else 1
        return stage.weight.reshape(directions, -1, stage.weight.shape[1])

    def role(self, call: Call) -> tuple[Any, ...]:
        """Cells of one kind may share a W; its shape says the directions."""
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
