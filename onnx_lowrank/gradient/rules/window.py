"""How a kernel slides over an image: what convolutions and poolings have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.gradient.emitter import NoRule, Value
from onnx_lowrank.gradient.rule_context import RuleContext


@dataclass(frozen=True, slots=True)
class Window:
    """How a kernel slides: one entry a spatial axis. `begin` is None where the padding shows only at run time."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...] | None
    end: tuple[int, ...] | None
    auto_pad: str = "NOTSET"

    @property
    def extents(self) -> tuple[int, ...]:
        """From the first to the last tap."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True))


def window_of(context: RuleContext, kernel: Sequence[int], x: Value) -> Window:
    """Return the window of a convolution or pooling node over x."""
    n = len(kernel)
    strides = tuple(context.integers("strides") or [1] * n)
    dilations = tuple(context.integers("dilations") or [1] * n)
    auto = context.text("auto_pad", "NOTSET")
    window = Window(tuple(kernel), strides, dilations, None, None, auto)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return _same(window, x)
    pads = context.integers("pads") or [0] * (2 * n)
    if auto == "VALID":
        pads = [0] * (2 * n)
    return Window(tuple(kernel), strides, dilations, tuple(pads[:n]), tuple(pads[n:]), auto)


def _same(window: Window, x: Value) -> Window:
    """SAME pads: known where the stride is 1 or the extent of x is."""
    begin, end = [], []
    for axis, (extent, stride) in enumerate(zip(window.extents, window.strides, strict=True)):
        size = x.dims[axis + 2] if x.dims is not None else None
        if stride == 1:
            pad = extent - 1
        elif isinstance(size, int):
            pad = max((-(-size // stride) - 1) * stride + extent - size, 0)
        else:
            return window
        small, large = pad // 2, pad - pad // 2
        begin.append(small if window.auto_pad == "SAME_UPPER" else large)
        end.append(large if window.auto_pad == "SAME_UPPER" else small)
    return Window(window.kernel, window.strides, window.dilations, tuple(begin), tuple(end), window.auto_pad)


def kernel_of(context: RuleContext, weight: Value) -> tuple[int, ...]:
    """Return the kernel's extents. Raises NoRule where they are not known."""
    sizes = weight.dims[2:] if weight.dims is not None else context.integers("kernel_shape")
    if sizes is None or not all(isinstance(size, int) for size in sizes):
        raise NoRule("the kernel's shape is unknown")
    return tuple(size for size in sizes if isinstance(size, int))


def same_begin(window: Window, x: Value) -> Value:
    """Return the pads that SAME puts in front, from the extents of x at run time."""
    emit, n = x.emit, len(window.kernel)
    sizes = emit.concat([emit.size(x, axis) for axis in range(2, 2 + n)])
    strides, extents = emit.ints(window.strides), emit.ints(window.extents)
    count = (sizes + strides - 1) / strides
    total = emit.op("Max", (count - 1) * strides + extents - sizes, emit.ints([0]))
    return (total if window.auto_pad == "SAME_UPPER" else total + 1) / 2
