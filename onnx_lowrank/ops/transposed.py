"""A product with the transpose of a table that is also looked up: an output layer tied to the embedding.

The site's weight is the lookup's, W (width, rows); this node computes y = Wᵀ h. So its factors are the table's, the
last one first: with W = last · first it is y = firstᵀ (lastᵀ h), of the very tensors that the lookup reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx

from onnx_lowrank.ops.gather import Gather
from onnx_lowrank.ops.gemm import Gemm
from onnx_lowrank.ops.matmul import MatMul
from onnx_lowrank.ops.op import Call, Names, Observable, Op, Place, Refusal, Written, divisible, no_patches, one_group
from onnx_lowrank.types import Array, Positions, Stage

TABLE = Gather()
Writer = Callable[[Call, "list[tuple[Stage, str]]", Names], Written]


class Transposed:
    """An operator that reads the table's transpose; `canonical` and `stored` are the table's own."""

    def __init__(self, op: Op, write: Writer) -> None:
        self._op, self._write, self.op_type = op, write, op.op_type

    seen: Observable = "both"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse what the operator refuses of the weight as it arrives here."""
        return self._op.refuse(call, call.shape)

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the table as (width, rows)."""
        return TABLE.canonical(call, weight)

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return a factor as the lookup stores it."""
        return TABLE.stored(call, stage, place=place)

    def role(self, call: Call) -> tuple[Any, ...]:
        """Return the lookup's: the two may share a table."""
        return TABLE.role(call)

    def data(self, call: Call) -> str:
        """Return the activations h."""
        return self._op.data(call)

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the vectors h."""
        return self._op.positions(call, x, y, kernel)

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return h as (positions, width)."""
        return self._op.vectors(call, x, kernel)

    def results(self, call: Call, y: Array) -> Array:
        """Return the output as (positions, rows)."""
        return self._op.results(call, y)

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output without its bias, as (positions, rows)."""
        return self._op.linear(call, y, bias)

    def scale(self, call: Call) -> float:
        """Return what the weight is multiplied by in this node."""
        return self._op.scale(call)

    groups = staticmethod(one_group)
    whole = staticmethod(divisible)
    patches = staticmethod(no_patches)

    def write(self, call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
        """Write the same operators with the stages' tensors from the last to the first."""
        turned = [(Stage(stage.weight.T), name) for stage, name in reversed(stages)]
        return self._write(call, turned, names)


def _gemm(call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
    """Write Gemms: a flag turns a factor, or leaves it where the weight stands on the left."""
    flag, turned = ("transB", 1) if call.slot == 1 else ("transA", 0)
    return Gemm().write(replace(call, attributes={**call.attributes, flag: turned}), stages, names)


def _matmul(call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
    """Write MatMuls: on the right of h a factor is turned by a node, which onnxruntime computes once, on loading."""
    if call.slot == 0:
        return MatMul().write(call, stages, names)
    turned = [(stage, names(f"{name}.turned")) for stage, name in stages]
    turns = [
        onnx.helper.make_node("Transpose", [old], [new], new, perm=[1, 0])
        for (_, old), (_, new) in zip(stages, turned, strict=True)
    ]
    written = MatMul().write(call, turned, names)
    return Written((*turns, *written.nodes), written.extra)


TRANSPOSED: tuple[Transposed, ...] = (Transposed(MatMul(), _matmul), Transposed(Gemm(), _gemm))
"""Every operator that may be the output layer."""
