"""MatMul with a constant matrix on either side, y = x W or y = W x; or with one for every slice (experts, heads)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.op import (
    Call,
    Names,
    Observable,
    Place,
    Refusal,
    Written,
    as_vectors,
    divisible,
    no_patches,
    unscaled,
)
from onnx_lowrank.types import Array, Positions, Stage, Why


class MatMul:
    """Slot 1 (x W) stores W as (in, out); slot 0 (W x) stores it as (out, in) and maps the columns of x.

    A stored (slices, in, out) is block-diagonal: slice i maps x[…, i, :, :] alone, so slices are groups, and a vector
    holds what all slices see at one row, slice by slice.
    """

    op_type = "MatMul"
    seen: Observable = "both"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse a vector, and slices of slices."""
        if len(shape) in (2, 3):
            return None
        return Why.SHAPE, f"{len(shape)}-D operand of MatMul: a matrix or one for every slice is factored"

    def groups(self, call: Call) -> int:
        """Return the slices."""
        return call.shape[0] if len(call.shape) == 3 else 1

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return W as (out, in), of slices as (slices · out, in)."""
        turned = np.swapaxes(weight, -1, -2) if call.slot == 1 else weight
        return turned.reshape(-1, turned.shape[-1])

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return the factor as the side asks for."""
        weight = stage.weight
        if len(call.shape) == 3:
            weight = weight.reshape(call.shape[0], -1, weight.shape[1])
        return np.swapaxes(weight, -1, -2) if call.slot == 1 else weight

    whole = staticmethod(divisible)

    def role(self, call: Call) -> tuple[Any, ...]:
        """The side, and whether there are slices."""
        return (self.op_type, call.slot, len(call.shape))

    def data(self, call: Call) -> str:
        """Return the other operand."""
        return call.inputs[1 - call.slot]

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the vectors that W maps; those of all slices at one row are one."""
        if len(x) == 1:
            return Positions(calls=1.0)
        rows = (*y[:-2], x[-2 if call.slot == 1 else -1])
        return Positions(calls=math.prod(rows) / self.groups(call))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return rows of x, or its columns where W stands on the left."""
        return self._rows(call, x if call.slot == 1 or x.ndim == 1 else np.swapaxes(x, -1, -2))

    def results(self, call: Call, y: Array) -> Array:
        """Return rows of y, or its columns where W stands on the left."""
        return self._rows(call, y if call.slot == 1 or y.ndim == 1 else np.swapaxes(y, -1, -2))

    def _rows(self, call: Call, x: Array) -> Array:
        """Return (…, n) as (positions, n); of slices (…, slices or 1, rows, n) as (positions, slices · n)."""
        groups = self.groups(call)
        if groups == 1:
            return as_vectors(x)
        lead = x.shape[:-3]
        x = (
            np.broadcast_to(x, (*lead, groups, *x.shape[-2:]))
            if x.ndim > 1
            else np.broadcast_to(x, (groups, 1, *x.shape))
        )
        return np.swapaxes(x, -3, -2).reshape(-1, groups * x.shape[-1])

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output: there is no bias."""
        return self.results(call, y)

    patches = staticmethod(no_patches)
    scale = staticmethod(unscaled)

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
