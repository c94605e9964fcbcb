"""onnxruntime's Attention: queries, keys and values are W x, made inside the node."""

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


class Attention:
    """The weights (in, queries + keys + values): MatMuls make the input narrower; it need not be as wide as the heads.

    Queries, keys and values share the first factor.
    """

    op_type = "com.microsoft.Attention"
    seen: Seen = "inputs"

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

    def data(self, call: Call) -> str:
        """Return the input (batch, tokens, in)."""
        return call.inputs[0]

    def places(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the tokens, padding included."""
        return Positions(calls=float(math.prod(x[:-1])))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the tokens as rows."""
        return as_vectors(x)

    def results(self, call: Call, y: Array) -> Array:
        """Raise: no tensor holds W x."""
        raise TypeError(f"the queries, keys and values are inside Attention, and are not {np.shape(y)}")

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
        """Write a MatMul for every stage but the last, which becomes the weights; all else of the node stays."""
        return narrowed(call, stages, names)
