"""Conv in one, two or three dimensions, in one group or several: y = W * x + b."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view

from onnx_lowrank.ops.channels_first import ChannelsFirst, bias_of
from onnx_lowrank.ops.nodes import channel_vectors, node_name, single
from onnx_lowrank.ops.op import Call, Names, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Activations, Array, Positions, Stage, Why

GEOMETRY = ("strides", "dilations")


class Conv(ChannelsFirst):
    """A stage gets stride, pad and dilation on the axes it owns, and 1 / 0 / 1 elsewhere; the last has the bias."""

    op_type = "Conv"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse a channel by itself, and other than one to three axes."""
        if call.slot != 1:
            return Why.ELEMENTWISE, "bias of Conv" if call.slot else "constant input of Conv"
        group = int(call.attributes.get("group", 1))
        if group > 1 and shape[1] == 1:
            return Why.DEPTHWISE, f"{group} groups of one channel"
        if not 3 <= len(shape) <= 5:
            return Why.SHAPE, f"{len(shape)}-D kernel: one to three spatial axes are handled"
        return None

    def canonical(self, call: Call, weight: Array) -> Array:
        """ONNX stores (out, in, *spatial) already."""
        return weight

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """ONNX stores (out, in, *spatial) already."""
        return stage.weight

    def groups(self, call: Call) -> int:
        """Return the groups of channels."""
        return int(call.attributes.get("group", 1))

    def role(self, call: Call) -> tuple[Any, ...]:
        """Any geometry may share a kernel, but for the groups."""
        return (self.op_type, int(call.attributes.get("group", 1)))

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return batch and spatial extents."""
        return Positions(float(x[0]), tuple(map(float, x[2:])), tuple(map(float, y[2:])))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return channel vectors; of a 1×1 kernel only those it reads, of a larger one all."""
        if math.prod(kernel) == 1 and not any(call.attributes.get("pads", ())):
            steps = call.integers("strides", (1,) * len(kernel))
            x = x[(slice(None), slice(None), *(slice(None, None, s) for s in steps))]
        return channel_vectors(x)

    def results(self, call: Call, y: Array) -> Array:
        """Return channel vectors of the output, bias included."""
        return channel_vectors(y)

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return channel vectors of the output, without the bias."""
        rows = self.results(call, y)
        return rows if bias is None else rows - bias.reshape(1, -1).astype(rows.dtype)

    def patches(self, call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array:
        """Return the receptive fields of output positions, counted over (batch, *spatial)."""
        strides = call.integers("strides", (1,) * len(kernel))
        dilations = call.integers("dilations", (1,) * len(kernel))
        window = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
        pads = self._pads(call, x.shape[2:], window, strides)
        padded = np.pad(x, [(0, 0), (0, 0), *pads])
        windows = sliding_window_view(padded, window, axis=tuple(range(2, x.ndim)))
        windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
        extent = (windows.shape[0], *windows.shape[2 : x.ndim])
        if math.prod(extent) != count:
            raise ValueError(f"{call.name}: {math.prod(extent)} windows for {count} output positions")
        where = np.unravel_index(picks, extent)
        every = tuple(slice(None, None, d) for d in dilations)
        index: tuple[Any, ...] = (where[0], slice(None), *where[1:])
        picked = windows[index]
        return np.ascontiguousarray(picked[(slice(None), slice(None), *every)])

    def _pads(
        self, call: Call, extent: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...]
    ) -> list[tuple[int, int]]:
        auto = call.attributes.get("auto_pad", b"NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else auto
        axes = len(window)
        if auto == "VALID":
            return [(0, 0)] * axes
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(extent, window, strides, strict=True)]
            small = [(t // 2, t - t // 2) for t in total]
            return small if auto == "SAME_UPPER" else [(after, before) for before, after in small]
        pads = call.integers("pads", (0,) * (2 * axes))
        return list(zip(pads[:axes], pads[axes:], strict=True))

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return a Conv; the last has the bias."""
        operands = [at.input, at.weight, *bias_of(call, at)]
        return single("Conv", operands, at, node_name(call, at, names), **self._attributes(call, stage))

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return every output times the kernel."""
        return float(math.prod(out) * math.prod(right[1:]))

    def integers(self, call: Call) -> Activations:
        """Return "static": onnxruntime's convolution of ranges found at run time took 5.6 times as long as in float."""
        return "static"

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the axis of the outputs."""
        return 0 if slot == 1 else None

    def _attributes(self, call: Call, stage: Stage) -> dict[str, Any]:
        kernel = stage.weight.shape[2:]
        axes = len(kernel)
        attributes: dict[str, Any] = {"kernel_shape": kernel, "group": stage.groups}
        for key in GEOMETRY:
            values = call.integers(key, (1,) * axes)
            attributes[key] = [v if axis in stage.owns else 1 for axis, v in enumerate(values)]
        auto = call.attributes.get("auto_pad", b"NOTSET")
        if auto not in (b"NOTSET", "NOTSET"):
            if stage.owns:  # with stride 1 and kernel 1 an axis that is not owned gets no padding from it
                attributes["auto_pad"] = auto
            return attributes
        pads = call.integers("pads", (0,) * (2 * axes))
        attributes["pads"] = [v if position % axes in stage.owns else 0 for position, v in enumerate(pads)]
        return attributes
