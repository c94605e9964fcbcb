"""Gemm with a constant matrix as B (or as A): y = α x' W' + β c."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.nodes import as_vectors, attributes_of, node_name
from onnx_lowrank.ops.op import Call, Names, Op, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Activations, Array, Positions, Stage, Why

OPTIONAL_BIAS = 11
"""The opset from which Gemm's third input may be left out."""
BROADCASTS = 7
"""The opset from which it is broadcast without being told."""


class Gemm(Op):
    """Slot 1: x' is A, or its transpose with transA, and W is B. Slot 0: W is A and maps the columns of B'.

    Factors keep W's own transposition flag, so a shared weight needs only the same flag everywhere. α, β and c belong
    to the last stage.
    """

    op_type = "Gemm"
    shares_input = True

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse W as the bias."""
        return None if call.slot < 2 else (Why.ELEMENTWISE, "bias of Gemm")

    def _weight_flag(self, call: Call) -> int:
        return int(call.attributes.get("transA" if call.slot == 0 else "transB", 0))

    def _data_flag(self, call: Call) -> int:
        return int(call.attributes.get("transB" if call.slot == 0 else "transA", 0))

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return W as (out, in); α stays with the node."""
        return weight.T if self._weight_flag(call) == (call.slot == 0) else weight

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return the factor with W's own flag."""
        return self.canonical(call, stage.weight)

    def role(self, call: Call) -> tuple[Any, ...]:
        """The side and the flag."""
        return (self.op_type, call.slot, self._weight_flag(call))

    def data(self, call: Call) -> str:
        """Return the other operand."""
        return call.inputs[1 - call.slot]

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the vectors that W maps."""
        return Positions(calls=float(y[0] if call.slot == 1 else y[1]))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return what W maps, as rows."""
        return as_vectors(x if self._data_flag(call) == (call.slot == 0) else x.T)

    def results(self, call: Call, y: Array) -> Array:
        """Return the output as rows, α and bias included."""
        return as_vectors(y if call.slot == 1 else y.T)

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output without β c, as rows; α stays."""
        if bias is None:
            return self.results(call, y)
        return self.results(call, y - np.float32(call.attributes.get("beta", 1.0)).astype(y.dtype) * bias)

    def scale(self, call: Call) -> float:
        """Return α."""
        return float(call.attributes.get("alpha", 1.0))

    def form(self, call: Call) -> Hashable:
        """Return the side and both flags: they decide how the first factor reads the data."""
        return call.slot, *(int(call.attributes.get(name, 0)) for name in ("transA", "transB"))

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return a Gemm; the last has α, β and the bias."""
        weight_key, data_key = ("transB", "transA") if call.slot == 1 else ("transA", "transB")
        operands = [at.input, at.weight] if call.slot == 1 else [at.weight, at.input]
        attributes: dict[str, Any] = {weight_key: self._weight_flag(call)}
        extra: dict[str, Array] = {}
        if at.index == 0:
            attributes[data_key] = self._data_flag(call)
        if at.scaled:
            attributes["alpha"] = self.scale(call)
        if at.bias:
            operands.append(at.bias)
        elif at.last and not at.linear:
            operands.extend(call.inputs[2:])
            attributes.update({k: v for k, v in call.attributes.items() if k in ("alpha", "beta", "broadcast")})
        elif call.opset < OPTIONAL_BIAS:
            zero = names(f"{at.weight}.zero")
            extra[zero] = np.zeros((1, 1), stage.weight.dtype)
            operands.append(zero)
        name = node_name(call, at, names)
        node = onnx.helper.make_node("Gemm", operands, [at.output], name, None, None, None, **attributes)
        return Written((node,), extra)

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the columns, or the rows where W is on the left; None before the data have the layout of W."""
        return None if at.index == 0 and self._data_flag(call) else 1 if call.slot == 1 else 0

    def input_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the columns, or the rows where W is on the left; None where the node transposes its data."""
        return self.channel_axis(call, at)

    def adds(self, call: Call) -> str:
        """Return c."""
        return call.input(2)

    def constant_bias(self, call: Call, value: Array) -> Array | None:
        """Return β c of one number an output, or of one for all; None before c is broadcast by itself."""
        rows = call.op.canonical(call, np.broadcast_to(np.float32(0), call.shape)).shape[0]
        shapes: list[tuple[int, ...]] = [(rows,), (1, rows)] if call.slot == 1 else [(rows, 1)]
        if call.opset < BROADCASTS or value.shape not in (*shapes, (), (1,), (1, 1)):
            return None
        beta = float(call.attributes.get("beta", 1.0))
        return beta * np.broadcast_to(np.asarray(value, np.float64).reshape(-1), (rows,))

    def laid_bias(self, call: Call, bias: Array) -> Array:
        """Return (outputs,), a column where W is on the left."""
        return bias if call.slot == 1 else bias.reshape(-1, 1)

    def finish(self, call: Call, tensor: str, names: Names) -> Written:
        """Return α y + β c."""
        nodes: list[onnx.NodeProto] = []
        extra: dict[str, Array] = {}

        def times(factor: float, of: str) -> str:
            if factor == 1:
                return of
            constant, product = names(f"{of}.factor"), names(f"{of}.scaled")
            extra[constant] = np.array(factor, np.float32)
            nodes.append(onnx.helper.make_node("Mul", [of, constant], [product], product))
            return product

        terms = [times(self.scale(call), tensor)]
        if call.input(2):
            terms.append(times(float(call.attributes.get("beta", 1.0)), call.input(2)))
        kind = "Add" if len(terms) > 1 else "Identity"
        nodes.append(onnx.helper.make_node(kind, terms, [call.output], names(f"{call.output}.whole")))
        return Written(tuple(nodes), extra)

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return every output times the summed axis."""
        return float(math.prod(out) * left[0 if attributes_of(node).get("transA", 0) else 1])

    def integers(self, call: Call) -> Activations:
        """Return "dynamic" for x W, as for MatMul."""
        return "dynamic" if call.slot == 1 and not self._data_flag(call) else ""

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the axis of the outputs."""
        if slot > 1:
            return None
        return slot ^ int(bool(attributes_of(node).get("transB" if slot else "transA", 0)))
