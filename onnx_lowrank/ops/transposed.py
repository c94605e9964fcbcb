"""A product with the transpose of a table that is also looked up: an output layer tied to the embedding.

The site's weight is the lookup's, W (width, rows); this node computes y = Wᵀ h. So its factors are the table's, the
last one first: with W = last · first it is y = firstᵀ (lastᵀ h), of the very tensors that the lookup reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx

from onnx_lowrank.ops.gather import Gather
from onnx_lowrank.ops.gemm import Gemm
from onnx_lowrank.ops.matmul import MatMul
from onnx_lowrank.ops.op import SIDES, Call, NamedStages, Names, Op, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Array, Positions, SideName, Stage

TABLE = Gather()


class Transposed(Op):
    """An operator that reads the table's transpose; `canonical` and `stored` are the table's own."""

    transposed = True

    def __init__(self, straight: Op) -> None:
        self.straight, self.op_type = straight, straight.op_type

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse what the operator refuses of the weight as it arrives here."""
        return self.straight.refuse(call, call.shape)

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the table as (width, rows)."""
        return TABLE.canonical(call, weight)

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return a factor as the lookup stores it."""
        return TABLE.stored(call, stage, position=position)

    def role(self, call: Call) -> tuple[Any, ...]:
        """Return the lookup's: the two may share a table."""
        return TABLE.role(call)

    def data(self, call: Call) -> str:
        """Return the activations h."""
        return self.straight.data(call)

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the vectors h."""
        return self.straight.positions(call, x, y, kernel)

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return h as (positions, width)."""
        return self.straight.vectors(call, x, kernel)

    def results(self, call: Call, y: Array) -> Array:
        """Return the output as (positions, rows)."""
        return self.straight.results(call, y)

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output without its bias, as (positions, rows)."""
        return self.straight.linear(call, y, bias)

    def scale(self, call: Call) -> float:
        """Return what the weight is multiplied by in this node."""
        return self.straight.scale(call)

    def identity_sides(self, call: Call) -> tuple[SideName, ...]:
        """Return the sides of the operator itself, each as that of the table, which is the transpose."""
        sides = self.straight.identity_sides(call)
        return tuple(side for side in SIDES if ("in" if side == "out" else "out") in sides)

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Raise: `prepare` hands the stages to the operator itself."""
        raise TypeError(f"{self.op_type}: stages of a transposed weight are written by the operator itself")

    def prepare(
        self, call: Call, stages: NamedStages, names: Names
    ) -> tuple[Call, NamedStages, tuple[onnx.NodeProto, ...]]:
        """Return the stages' tensors from the last to the first, as the operator itself reads them."""
        backward = [(stage.transposed, name) for stage, name in reversed(stages)]
        if self.op_type == "Gemm":  # a flag transposes a factor, or leaves it where the weight is on the left
            flag, value = ("transB", 1) if call.slot == 1 else ("transA", 0)
            return replace(call, op=self.straight, attributes={**call.attributes, flag: value}), backward, ()
        call = call.bound_to(self.straight)
        if call.slot == 0:
            return call, backward, ()
        # on the right of h a factor is transposed by a node, which onnxruntime computes once, on loading
        named = [(stage, names(f"{name}.turned")) for stage, name in backward]
        nodes = (
            onnx.helper.make_node("Transpose", [old], [new], new, perm=[1, 0])
            for (_, old), (_, new) in zip(backward, named, strict=True)
        )
        return call, named, tuple(nodes)


TRANSPOSED: tuple[Transposed, ...] = (Transposed(MatMul()), Transposed(Gemm()))
"""Every operator that may be the output layer."""
