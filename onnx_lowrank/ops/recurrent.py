"""LSTM, GRU and RNN: W x of all directions and gates at once; what the cell makes of it stays inside the node."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnx_lowrank.ops.base import (
    Call,
    Names,
    Place,
    Refusal,
    Seen,
    Written,
    as_vectors,
    divisible,
    narrowed,
    no_patches,
    one_group,
)
from onnx_lowrank.types import Array, Positions, Stage, Why

INPUTS = {0: "constant input", 3: "bias", 4: "lengths", 5: "initial state", 6: "initial cell", 7: "peephole"}


class Recurrent:
    """The input matrix W (directions, gates · hidden, in): MatMuls make the input narrower, and the cell has a new W.

    Directions and gates share the first factor: canonically W is (directions · gates · hidden, in).
    """

    seen: Seen = "inputs"

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

    def data(self, call: Call) -> str:
        """Return the input (steps, batch, in), with layout 1 (batch, steps, in)."""
        return call.inputs[0]

    def places(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the steps of all sequences, padding included: it is computed as well."""
        return Positions(calls=float(math.prod(x[:-1])))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the inputs of all steps as rows."""
        return as_vectors(x)

    def results(self, call: Call, y: Array) -> Array:
        """Raise: no tensor holds W x."""
        raise TypeError(f"what {self.op_type} makes of W x is inside it, and is not {np.shape(y)}")

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Raise: no tensor holds W x."""
        return self.results(call, y)

    def scale(self, call: Call) -> float:
        """Return 1."""
        return 1.0

    groups = staticmethod(one_group)
    whole = staticmethod(divisible)
    patches = staticmethod(no_patches)

    def write(self, call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
        """Write a MatMul for every stage but the last, which becomes the cell's W; all else of the cell stays."""
        return narrowed(call, stages, names)
