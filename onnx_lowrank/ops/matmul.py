"""MatMul with a constant matrix on either side, y = x W or y = W x; or with one for every slice (experts, heads)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.nodes import as_vectors, node_name, single
from onnx_lowrank.ops.op import Call, Names, Op, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Activations, Array, Positions, Stage, Why


class MatMul(Op):
    """Slot 1 (x W) stores W as (in, out); slot 0 (W x) stores it as (out, in) and maps the columns of x.

    A stored (slices, in, out) is block-diagonal: slice i maps x[…, i, :, :] alone, so slices are groups, and a vector
    holds what all slices see at one row, slice by slice.
    """

    op_type = "MatMul"
    shares_input = True

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
        matrices = np.swapaxes(weight, -1, -2) if call.slot == 1 else weight
        return matrices.reshape(-1, matrices.shape[-1])

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return the factor as the side asks for."""
        weight = stage.weight
        if len(call.shape) == 3:
            weight = weight.reshape(call.shape[0], -1, weight.shape[1])
        return np.swapaxes(weight, -1, -2) if call.slot == 1 else weight

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
        """Return rows of x, or its columns where W is on the left."""
        return self._rows(call, x if call.slot == 1 or x.ndim == 1 else np.swapaxes(x, -1, -2))

    def results(self, call: Call, y: Array) -> Array:
        """Return rows of y, or its columns where W is on the left."""
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

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return a MatMul."""
        operands = [at.input, at.weight] if call.slot == 1 else [at.weight, at.input]
        return single("MatMul", operands, at, node_name(call, at, names))

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the last axis, or the one before where W is on the left; slices have no axis for all rows."""
        return None if self.groups(call) > 1 else -1 if call.slot == 1 else -2

    def input_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the last axis, or the one before where W is on the left; slices have no axis for all columns."""
        return self.channel_axis(call, at)

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return every output times the summed axis."""
        return float(math.prod(out) * left[-1])

    def integers(self, call: Call) -> Activations:
        """Return "dynamic" for x W.

        With static ranges onnxruntime 1.31 multiplies integers only where no bias follows, and in float else.
        """
        return "dynamic" if call.slot == 1 and len(call.shape) == 2 else ""

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the axis of the outputs."""
        return dimensions - 1 if slot == 1 else dimensions - 2
