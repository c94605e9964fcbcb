"""Gemm with a constant matrix as B (or as A): y = α x' W' + β c."""

from __future__ import annotations

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
)
from onnx_lowrank.types import Array, Positions, Stage, Why

OPTIONAL_BIAS = 11
"""The opset from which Gemm's third input may be left out."""


class Gemm:
    """Slot 1: x' is A, or its transpose with transA, and W is B. Slot 0: W is A and maps the columns of B'.

    Factors keep W's own transposition flag, so a shared weight needs only the same flag everywhere. α, β and c belong
    to the last stage.
    """

    op_type = "Gemm"
    seen: Observable = "both"

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

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
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

    groups = staticmethod(one_group)
    whole = staticmethod(divisible)
    patches = staticmethod(no_patches)

    def write(self, call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
        """Write one Gemm a stage; the last has α, β and the bias."""
        nodes, extra, current = [], {}, self.data(call)
        weight_key, data_key = ("transB", "transA") if call.slot == 1 else ("transA", "transB")
        for index, (stage, weight) in enumerate(stages):
            last = index == len(stages) - 1
            output = call.output if last else names(f"{call.output}.inner{index}")
            operands = [current, weight] if call.slot == 1 else [weight, current]
            attributes: dict[str, Any] = {weight_key: self._weight_flag(call)}
            if index == 0:
                attributes[data_key] = self._data_flag(call)
            if last:
                operands.extend(call.inputs[2:])
                attributes.update({k: v for k, v in call.attributes.items() if k in ("alpha", "beta", "broadcast")})
            elif call.opset < OPTIONAL_BIAS:
                zero = names(f"{weight}.zero")
                extra[zero] = np.zeros((1, 1), stage.weight.dtype)
                operands.append(zero)
            name = names(f"{call.name or call.output}.{index}")
            nodes.append(onnx.helper.make_node("Gemm", operands, [output], name, None, None, None, **attributes))
            current = output
        return Written(tuple(nodes), extra)
