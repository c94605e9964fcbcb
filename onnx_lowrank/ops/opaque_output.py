"""Operators that keep W x inside their node (recurrent cells, Attention): what they have in common."""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_lowrank.ops.nodes import as_vectors, node_name, single
from onnx_lowrank.ops.op import Call, Names, Observable, Op, StageSite, Written
from onnx_lowrank.types import Array, Positions, Stage


class OpaqueOutput(Op):
    """Only the input of W can be seen: MatMuls in front of the node make it narrower, the last factor becomes its W."""

    observable: Observable = "inputs"

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the rows of (…, in), steps or tokens, padding included: it is computed as well."""
        return Positions(calls=float(math.prod(x[:-1])))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return (…, in) as (positions, in)."""
        return as_vectors(x)

    def results(self, call: Call, y: Array) -> Array:
        """Raise: no tensor holds W x."""
        raise TypeError(f"what {call.op_type} makes of W x is inside it, and is not {np.shape(y)}")

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return a MatMul; of the last stage the node as it was, with another weight."""
        if not at.last:
            return single("MatMul", [at.input, at.weight], at, node_name(call, at, names))
        operands = [at.input, at.weight, *call.inputs[2:]]
        domain, _, kind = call.op_type.rpartition(".")
        name = node_name(call, at, names)
        last = onnx.helper.make_node(kind, operands, call.outputs, name, None, domain or None, None, **call.attributes)
        return Written((last,))

    def input_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the last axis of what comes before the node."""
        return -1

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the last axis of what comes before the node; inside it no rows can pass."""
        return None if at.last else -1
