"""Gather from a constant table of rows (an embedding): y = W x with one-hot x, which is never formed."""

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
    one_group,
    unscaled,
)
from onnx_lowrank.types import Array, Positions, Stage, Why


class Gather:
    """The table (rows, width) is canonically (width, rows): a short table of rows is looked up, the rest are MatMuls.

    Only tables with more rows than their width: their factors come from the outputs alone (schemes project the smaller
    side), and a smaller table is not worth it.
    """

    op_type = "Gather"
    seen: Observable = "outputs"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse all but long tables whose rows are looked up."""
        axis = int(call.attributes.get("axis", 0))
        if call.slot != 0 or len(shape) < 2:
            return Why.ELEMENTWISE, "Gather"
        if len(shape) > 2:
            return Why.EMBEDDING, f"{len(shape)}-D table: only matrices are factored"
        if axis not in (0, -2):
            return Why.EMBEDDING, f"Gather along axis {axis}: only rows (axis 0) are looked up"
        if shape[0] < shape[1]:
            return Why.EMBEDDING, f"a table of {shape[0]} rows, fewer than their width {shape[1]}"
        return None

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the table as (width, rows)."""
        return weight.T

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return (rows, rank) of the first stage, (rank, width) of the others."""
        return stage.weight.T

    def role(self, call: Call) -> tuple[Any, ...]:
        """Any lookup of rows may share a table."""
        return (self.op_type,)

    def data(self, call: Call) -> str:
        """Return the indices."""
        return call.inputs[1]

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the indices."""
        return Positions(calls=float(math.prod(x)), at="nowhere")

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the indices (positions,), negative ones as they are."""
        return np.asarray(x, np.int64).reshape(-1)

    def results(self, call: Call, y: Array) -> Array:
        """Return what was looked up, as rows."""
        return as_vectors(y)

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the same: there is no bias."""
        return as_vectors(y)

    groups = staticmethod(one_group)
    whole = staticmethod(divisible)
    patches = staticmethod(no_patches)
    scale = staticmethod(unscaled)

    def write(self, call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
        """Write a Gather from the first stage, and a MatMul for every other."""
        nodes, current = [], self.data(call)
        for index, (_, weight) in enumerate(stages):
            output = call.output if index == len(stages) - 1 else names(f"{call.output}.inner{index}")
            name = names(f"{call.name or call.output}.{index}")
            if index == 0:
                nodes.append(onnx.helper.make_node("Gather", [weight, current], [output], name, axis=0))
            else:
                nodes.append(onnx.helper.make_node("MatMul", [current, weight], [output], name))
            current = output
        return Written(tuple(nodes), {})
