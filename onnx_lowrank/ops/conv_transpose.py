"""ConvTranspose in one to three dimensions, in groups: every input is put, times the kernel, into its window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.channels_first import ChannelsFirst, bias_of
from onnx_lowrank.ops.nodes import attributes_of, channel_vectors, node_name, single
from onnx_lowrank.ops.op import Call, Names, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Array, Positions, Stage, Why

NEUTRAL = {"strides": 1, "dilations": 1, "output_padding": 0}
"""Attributes with one number an axis, and what they are on an axis that a stage does not own."""


class ConvTranspose(ChannelsFirst):
    """The stage that owns axes is a ConvTranspose with their attributes, one that owns none a 1×1 Conv.

    The last has the bias. The kernel is stored (in, out of one group, *spatial), that of a 1×1 Conv (out, in of one
    group, 1…).
    """

    op_type = "ConvTranspose"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse a channel by itself, bad ranks, and kernels of one element that leave outputs empty or out."""
        if call.slot != 1:
            return Why.ELEMENTWISE, "bias of ConvTranspose" if call.slot else "constant input of ConvTranspose"
        group = self.groups(call)
        if group > 1 and (shape[1] == 1 or shape[0] == group):
            return Why.DEPTHWISE, f"{group} groups of one channel"
        if not 3 <= len(shape) <= 5:
            return Why.SHAPE, f"{len(shape)}-D kernel: one to three spatial axes are handled"
        if math.prod(shape[2:]) == 1 and self._spread(call, len(shape) - 2):
            return Why.OPERATOR, "1×1 ConvTranspose with fewer or more outputs than inputs"
        return None

    def _spread(self, call: Call, axes: int) -> bool:
        shifts = (call.integers("pads", (0,) * (2 * axes)), call.integers("output_padding", (0,) * axes))
        strides = call.integers("strides", (1,) * axes)
        return any(map(any, shifts)) or max(strides) > 1 or "output_shape" in call.attributes

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the kernel as (out, in of one group, *spatial)."""
        return _swapped(weight, self.groups(call))

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return (in, out of one group, *spatial), of a stage that owns no axes (out, in of one group, 1…)."""
        return _swapped(stage.weight, stage.groups) if stage.owns else stage.weight

    def groups(self, call: Call) -> int:
        """Return the groups of channels."""
        return int(call.attributes.get("group", 1))

    def whole(self, call: Call) -> bool:
        """Return whether there is an output_shape: of a part of the axes the rest is not known."""
        return "output_shape" in call.attributes

    def role(self, call: Call) -> tuple[Any, ...]:
        """Any geometry may share a kernel, but for the groups."""
        return (self.op_type, self.groups(call))

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return batch and spatial extents; it multiplies at its inputs."""
        return Positions(float(x[0]), tuple(map(float, x[2:])), tuple(map(float, y[2:])), "before")

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return channel vectors."""
        return channel_vectors(x)

    def results(self, call: Call, y: Array) -> Array:
        """Return channel vectors of the output, bias included."""
        return channel_vectors(y)

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return channel vectors of the output, without the bias."""
        rows = channel_vectors(y)
        return rows if bias is None else rows - bias.reshape(1, -1).astype(rows.dtype)

    def patches(self, call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array | None:
        """Return the inputs that every kernel element brings to an output, zero where it brings none.

        None where the cropping of the output is not given as pads.
        """
        axes = len(kernel)
        if "output_shape" in call.attributes or call.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            return None
        strides, dilations, extra = (call.integers(key, (value,) * axes) for key, value in NEUTRAL.items())
        pads = call.integers("pads", (0,) * (2 * axes))
        extent = [
            s * (n - 1) + e + d * (k - 1) + 1 - before - after
            for s, n, e, d, k, before, after in zip(
                strides, x.shape[2:], extra, dilations, kernel, pads[:axes], pads[axes:], strict=True
            )
        ]
        if x.shape[0] * math.prod(extent) != count:
            raise ValueError(f"{call.name}: extents {extent} for {count} output positions")
        batch, *where = np.unravel_index(picks, (x.shape[0], *extent))
        index: list[Array] = []
        hit = np.ones((len(picks), *kernel), bool)
        for axis, (s, d, k) in enumerate(zip(strides, dilations, kernel, strict=True)):
            shifted = where[axis][:, None] + pads[axis] - d * np.arange(k)  # (n, k): which input, times the stride
            wide = shifted.reshape(len(picks), *(k if other == axis else 1 for other in range(axes)))
            hit &= (wide % s == 0) & (wide >= 0) & (wide < s * x.shape[2 + axis])
            index.append(np.clip(wide // s, 0, x.shape[2 + axis] - 1))
        picked = np.moveaxis(x, 1, -1)[(batch.reshape(-1, *(1,) * axes), *index)]  # (n, *k, in)
        return np.ascontiguousarray(np.moveaxis(picked * hit[..., None], -1, 1))

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return a ConvTranspose of the axes that the stage owns, else a 1×1 Conv; the last has the bias."""
        operands = [at.input, at.weight, *bias_of(call, at)]
        geometry = self._attributes(call, stage) if stage.owns else {}
        attributes = {"kernel_shape": stage.weight.shape[2:], "group": stage.groups, **geometry}
        name = node_name(call, at, names)
        return single(self.op_type if stage.owns else "Conv", operands, at, name, **attributes)

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return every input times the kernel."""
        return float(math.prod(left) * math.prod(right[1:]))

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the axis of the outputs; of groups that of the inputs, which are apart."""
        if slot != 1:
            return None
        return 1 if attributes_of(node).get("group", 1) == 1 else 0

    def _attributes(self, call: Call, stage: Stage) -> dict[str, Any]:
        """Raises ValueError for an output_shape of which the stage owns only a part: the rest is not known."""
        axes = stage.weight.ndim - 2
        attributes: dict[str, Any] = {}
        for key, neutral in NEUTRAL.items():
            if key in call.attributes:
                values = call.integers(key, (neutral,) * axes)
                attributes[key] = [v if axis in stage.owns else neutral for axis, v in enumerate(values)]
        if "output_shape" in call.attributes:
            if len(stage.owns) < axes:
                raise ValueError(f"{call.name}: output_shape cannot be divided among stages")
            attributes["output_shape"] = call.integers("output_shape", ())
        if "auto_pad" in call.attributes:
            attributes["auto_pad"] = call.attributes["auto_pad"]
        if "pads" in call.attributes:
            pads = call.integers("pads", (0,) * (2 * axes))
            attributes["pads"] = [v if position % axes in stage.owns else 0 for position, v in enumerate(pads)]
        return attributes


def _swapped(kernel: Array, groups: int) -> Array:
    """Return (first, second of one group, *spatial) with both kinds of channels swapped within every group."""
    first, second, *spatial = kernel.shape
    parts = kernel.reshape(groups, first // groups, second, *spatial)
    return np.swapaxes(parts, 1, 2).reshape(groups * second, first // groups, *spatial)
