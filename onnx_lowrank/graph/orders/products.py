"""Nodes that sum over channels, where an order ends in a weight, or whose channels a weight makes, where one begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from onnx_lowrank.graph.orders.region import SeenError
from onnx_lowrank.graph.orders.touch import NOTHING, Effects, Touch

Letters: TypeAlias = Mapping[int, str]
"""Axis from the end -> the index of the sum that runs along it."""


def matmul(touch: Touch) -> Effects:
    """y_mn = Σ_k a_mk b_kn; a vector lacks m or n; axes before these are broadcast."""
    left, right = touch.rank(0), touch.rank(1)
    if touch.axis < -2:
        if min(left, right) < 2:
            raise SeenError("MatMul with a vector")
        return touch.output(touch.axis) + touch.operand(0, touch.axis) + touch.operand(1, touch.axis)
    first = {-2: "m", -1: "k"} if left > 1 else {-1: "k"}
    second = {-2: "k", -1: "n"} if right > 1 else {-1: "k"}
    free = ("m" if left > 1 else "") + ("n" if right > 1 else "")
    return _summed(touch, [first, second], {index - len(free): letter for index, letter in enumerate(free)})


def gemm(touch: Touch) -> Effects:
    """y_mn = α Σ_k a_mk b_kn + β c_mn, with c broadcast."""
    first = {-2: "k", -1: "m"} if touch.attributes.get("transA", 0) else {-2: "m", -1: "k"}
    second = {-2: "n", -1: "k"} if touch.attributes.get("transB", 0) else {-2: "k", -1: "n"}
    out = {-2: "m", -1: "n"}
    return _summed(touch, [first, second, out], out)


def _summed(touch: Touch, operands: Sequence[Letters], out: Letters) -> Effects:
    """Whatever runs along the same index lies in the same order."""
    here = out if touch.slot is None else operands[touch.slot]
    letter = here.get(touch.axis)
    if letter is None:
        raise SeenError(f"{touch.node.op_type} along another axis")
    effects = NOTHING
    for slot, letters in enumerate(operands):
        for axis in (axis for axis, other in letters.items() if other == letter):
            effects += touch.operand(slot, axis)
    for axis in (axis for axis, other in out.items() if other == letter):
        effects += touch.output(axis)
    return effects


def conv(touch: Touch) -> Effects:
    """W (out, in, *kernel) and b (out): of one group, or of a group and an output for every channel."""
    return _conv(touch, outputs_first=True)


def conv_transpose(touch: Touch) -> Effects:
    """W (in, out, *kernel), else as `conv`."""
    return _conv(touch, outputs_first=False)


def _conv(touch: Touch, *, outputs_first: bool) -> Effects:
    touch.only_data()
    weight = touch.dims(1)
    rank, group = len(weight), int(touch.attributes.get("group", 1))
    channels = 1 - rank
    if touch.axis != channels:
        raise SeenError(f"{touch.node.op_type} along another axis")
    outputs, inputs = (-rank, channels) if outputs_first else (channels, -rank)
    if group == 1:
        if touch.inside:
            return touch.operand(1, inputs)
        return touch.operand(1, outputs) + touch.operand(2, -1)
    if group != touch.size or weight[0] != group or weight[1] != 1:
        raise SeenError(f"{touch.node.op_type} in groups of channels")
    through = touch.output(channels) + touch.operand(0, channels)
    return through + touch.operand(1, -rank) + touch.operand(2, -1)
