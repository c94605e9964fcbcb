"""Operators with channels on the second axis and a bias a channel: what convolutions have in common."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.ops.op import Call, Names, Op, StageSite, Written
from onnx_lowrank.types import Array


class ChannelsFirst(Op):
    """Rows and columns of every stage lie along the channels; the third input is the bias."""

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the channels."""
        return 1

    def input_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the channels."""
        return 1

    def adds(self, call: Call) -> str:
        """Return the bias."""
        return call.input(2)

    def constant_bias(self, call: Call, value: Array) -> Array | None:
        """Return the bias."""
        return value if value.ndim == 1 else None

    def finish(self, call: Call, tensor: str, names: Names) -> Written:
        """Return y + b."""
        return channel_bias(call, tensor, names)


def bias_of(call: Call, at: StageSite) -> tuple[str, ...]:
    """Return the third input of a stage's node, where it has one."""
    if at.bias:
        return (at.bias,)
    return call.inputs[2:] if at.last and not at.linear else ()


def channel_bias(call: Call, tensor: str, names: Names) -> Written:
    """Return the call's output: a tensor (N, out, *spatial) with the bias added, where there is one."""
    bias = call.input(2)
    if not bias:
        return Op.finish(call.op, call, tensor, names)
    shape, column = names(f"{bias}.shape"), names(f"{bias}.column")
    nodes = (
        onnx.helper.make_node("Reshape", [bias, shape], [column], column),
        onnx.helper.make_node("Add", [tensor, column], [call.output], names(f"{call.output}.whole")),
    )
    return Written(nodes, {shape: np.array([1, -1, *(1 for _ in call.shape[2:])], np.int64)})
