"""Gather from a constant table of rows (an embedding): y = W x with one-hot x, which is never formed."""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_lowrank.ops.nodes import as_vectors, attributes_of, node_name, single
from onnx_lowrank.ops.op import Call, Names, Observable, Op, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Array, Positions, Stage, Why


class Gather(Op):
    """The table (rows, width) is canonically (width, rows): a short table of rows is looked up, the rest are MatMuls.

    Only tables with more rows than their width: their factors come from the outputs alone (schemes project the smaller
    side), and a smaller table saves too little.
    """

    op_type = "Gather"
    observable: Observable = "outputs"

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

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return (rows, rank) of the first stage, (rank, width) of the others."""
        return stage.weight.T

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

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return a Gather from the first stage, a MatMul for every other."""
        name = node_name(call, at, names)
        if at.index == 0:
            return single("Gather", [at.weight, at.input], at, name, axis=0)
        return single("MatMul", [at.input, at.weight], at, name)

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the last axis; None at the lookup, whose input is indices."""
        return None if at.index == 0 else -1

    def counts(self, node: onnx.NodeProto) -> bool:
        """Return False: a lookup multiplies nothing."""
        return False

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the rows, which are looked up with their scales."""
        return 0 if slot == 0 and attributes_of(node).get("axis", 0) == 0 else None
