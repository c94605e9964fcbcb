"""MatMul with a constant matrix on either side: y = x W or y = W x."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.base import Call, Names, Place, Refusal, Seen, Written, as_vectors, no_patches
from onnx_lowrank.types import Array, Positions, Stage, Why


class MatMul:
    """Slot 1 (x W) stores W as (in, out); slot 0 (W x) stores it as (out, in) and maps the columns of x."""

    op_type = "MatMul"
    seen: Seen = "both"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse anything but a matrix."""
        if len(shape) == 2:
            return None
        return Why.SHAPE, f"{len(shape)}-D operand of MatMul: only matrices are factored"

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return W as (out, in)."""
        return weight.T if call.slot == 1 else weight

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return the factor as the side asks for."""
        return stage.weight.T if call.slot == 1 else stage.weight

    def role(self, call: Call) -> tuple[Any, ...]:
        """The side."""
        return (self.op_type, call.slot)

    def data(self, call: Call) -> str:
        """Return the other operand."""
        return call.inputs[1 - call.slot]

    def places(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the vectors that W maps."""
        if call.slot == 1 or len(x) == 1:
            return Positions(calls=float(math.prod(x[:-1])))
        return Positions(calls=float(math.prod(x[:-2]) * x[-1]))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return rows of x, or its columns where W stands on the left."""
        return as_vectors(x if call.slot == 1 or x.ndim == 1 else np.swapaxes(x, -1, -2))

    def results(self, call: Call, y: Array) -> Array:
        """Return rows of y, or its columns where W stands on the left."""
        return as_vectors(y if call.slot == 1 or y.ndim == 1 else np.swapaxes(y, -1, -2))

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output: there is no bias."""
        return self.results(call, y)

    def scale(self, call: Call) -> float:
        """Return 1."""
        return 1.0

    patches = staticmethod(no_patches)

    def write(self, call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
        """Write one MatMul a stage."""
        nodes, current = [], self.data(call)
        for index, (_, weight) in enumerate(stages):
            output = call.output if index == len(stages) - 1 else names(f"{call.output}.inner{index}")
            operands = [current, weight] if call.slot == 1 else [weight, current]
            nodes.append(
                onnx.helper.make_node("MatMul", operands, [output], names(f"{call.name or call.output}.{index}"))
            )
            current = output
        return Written(tuple(nodes), {})
