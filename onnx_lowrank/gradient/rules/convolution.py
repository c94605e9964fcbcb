"""Conv and ConvTranspose: any rank, groups, strides, dilations, pads and auto_pad."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnx_lowrank.gradient.emitter import FLOAT, Dims, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.rules.window import Window, kernel_of, same_begin, window_of
from onnx_lowrank.gradient.tensor_ops import reduce_sum, reshape, transpose
from onnx_lowrank.types import Array

SMALL_KERNEL = 2**18
"""Elements up to which a kernel is turned round here; onnxruntime does it once, on loading, with larger ones.

So the graph does not hold the large weights twice.
"""


def conv(context: RuleContext) -> Gradients:
    """The data gradient is a convolution with the flipped kernel, or a transposed convolution (strides)."""
    x, weight, group = context.x(0), context.x(1), context.integer("group", 1)
    window = window_of(context, kernel_of(context, weight), x)
    gradients: list[Value | None] = [None, None, None]
    if context.wants(0):
        pads = _flipped_pads(window)
        if pads is not None:
            gradients[0] = _by_convolution(context, context.g, window, pads, group, x.dims)
        else:
            single = group > 1 and weight.dims is not None and weight.dims[1] == 1
            spread = _by_spreading(context, window, group) if single else None
            gradients[0] = spread or scatter_windows(context.g, weight, window, x, group)
    if context.wants(1):
        raise NoRule("its kernel is computed in the graph")
    if context.wants(2):
        gradients[2] = _bias(context)
    return gradients


def _bias(context: RuleContext) -> Value:
    g = context.g
    return reduce_sum(g, [0, *range(2, g.rank)], keepdims=False)


def _flipped_pads(window: Window) -> list[int] | None:
    """The pads of the convolution that undoes a stride-1 one, None where there is none."""
    if window.begin is None or window.end is None or any(stride != 1 for stride in window.strides):
        return None
    begin = [extent - 1 - pad for extent, pad in zip(window.extents, window.begin, strict=True)]
    end = [extent - 1 - pad for extent, pad in zip(window.extents, window.end, strict=True)]
    return None if min(begin + end, default=0) < 0 else begin + end


def _by_convolution(
    context: RuleContext, g: Value, window: Window, pads: list[int], group: int, dims: Dims | None
) -> Value:
    """Return the gradient as a convolution: flipped kernel, exchanged channels (docs/method.md, section 3.13)."""
    x = context.x(1)
    small = x.name in context.forward.weights and context.forward.elements(x.name) <= SMALL_KERNEL
    fixed = context.constant(1) if small else None
    weight = context.emit.constant(flipped(fixed, group)) if fixed is not None else _flip(x, group)
    return context.emit.op(
        "Conv",
        g,
        weight,
        dims=dims,
        kernel_shape=list(window.kernel),
        pads=pads,
        dilations=list(window.dilations),
        group=group,
    )


def _by_spreading(context: RuleContext, window: Window, group: int) -> Value | None:
    """The same with strides: first g is spread, with zeros in between. None where that does not do.

    A convolution of single channels is next to nothing in onnxruntime's own layout, its ConvTranspose is not: on 144
    channels, 28×28 to 56×56, 5×5, 1.2 ms against .6 ms. With many channels the zeros would cost more than they save.
    """
    x, g = context.x(), context.g
    if window.begin is None or window.end is None or g.elem != FLOAT or g.dims is None or x.dims is None:
        return None
    begin = [extent - 1 - pad for extent, pad in zip(window.extents, window.begin, strict=True)]
    end, exact = [], True
    spatial = zip(g.dims[2:], x.dims[2:], window.strides, window.extents, window.begin, window.end, strict=True)
    for out, size, stride, extent, first, last in spatial:
        known = isinstance(out, int) and isinstance(size, int)
        exact = exact and known
        end.append(size - out * stride + first if known else extent - 1 - last)  # else up to a stride too much
    if min(begin + end) < 0:
        return None
    dims = x.dims if exact else (*x.dims[:2], *[None] * len(end))
    whole = _by_convolution(context, _spread(g, window.strides), window, begin + end, group, dims)
    return whole if exact else _cut(whole, x)


def _spread(g: Value, strides: tuple[int, ...]) -> Value:
    """Return g with stride − 1 zeros behind every element: every element repeated, and all but the first cancelled."""
    emit, n = g.emit, len(strides)
    scales = emit.constant(np.array([1, 1, *strides], np.float32))
    how: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
    mask: Value | None = None
    for axis, stride in enumerate(strides):
        if stride > 1:
            comb = _comb(emit.size(g, axis + 2), stride, [-1, *[1] * (n - 1 - axis)])
            mask = comb if mask is None else mask * comb
    repeated = emit.op("Resize", g, None, scales, dims=(*(g.dims or ())[:2], *[None] * n), **how)
    return repeated if mask is None else repeated * mask


def _comb(count: Value, stride: int, shape: list[int]) -> Value:
    """Return 1, 0, …, 1, 0, … with `count` ones, in a shape of one long axis."""
    emit = count.emit
    row = np.zeros((1, stride), np.float32)
    row[0, 0] = 1
    rows = emit.op("Expand", emit.constant(row), emit.concat([count, emit.ints([stride])]), elem=FLOAT)
    return reshape(rows, shape)


def flipped(weight: Array, group: int) -> Array:
    """Return the kernel (out, in/group, *k) turned round, with input and output channels swapped within each group."""
    out, width = weight.shape[:2]
    parts = weight.reshape(group, out // group, width, *weight.shape[2:]).swapaxes(1, 2)
    swapped = parts.reshape(group * width, out // group, *weight.shape[2:])
    return np.ascontiguousarray(np.flip(swapped, axis=tuple(range(2, weight.ndim))))


def _flip(weight: Value, group: int) -> Value:
    """The same on a kernel that the graph computes."""
    dims, emit = weight.dims, weight.emit
    if dims is None or not all(isinstance(size, int) for size in dims):
        raise NoRule("the kernel's shape is unknown")
    out, width, *kernel = (int(size) for size in dims if size is not None)
    parts = reshape(weight, [group, out // group, width, *kernel], (group, out // group, width, *kernel))
    parts = transpose(parts, [0, 2, 1, *range(3, 3 + len(kernel))])
    turned = reshape(parts, [group * width, out // group, *kernel])
    axes, n = emit.ints(range(2, 2 + len(kernel))), len(kernel)
    lowest = emit.ints([np.iinfo(np.int64).min] * n)
    return emit.op("Slice", turned, emit.ints([-1] * n), lowest, axes, emit.ints([-1] * n))


def scatter_windows(g: Value, weight: Value, window: Window, x: Value, group: int) -> Value:
    """Return Σ over windows of g times the kernel, put where the window was in x: the adjoint of a convolution."""
    common: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "group": group,
    }
    exact = _exact_padding(g, window, x)
    if exact is not None:
        pads, missing = exact
        return g.emit.op("ConvTranspose", g, weight, dims=x.dims, pads=pads, output_padding=missing, **common)
    # Take everything the windows touch and up to a stride more, then cut x out of it.
    room = [stride - 1 for stride in window.strides]
    whole = g.emit.op("ConvTranspose", g, weight, output_padding=room, **common)
    n = len(window.kernel)
    starts = g.emit.ints(window.begin) if window.begin is not None else same_begin(window, x)
    starts = g.emit.op("Max", starts, g.emit.ints([0]))
    sizes = g.emit.concat([g.emit.size(x, axis) for axis in range(2, 2 + n)])
    return g.emit.op("Slice", whole, starts, starts + sizes, g.emit.ints(range(2, 2 + n)), dims=x.dims)


def _exact_padding(g: Value, window: Window, x: Value) -> tuple[list[int], list[int]] | None:
    """Pads and output padding that give x's extents, None where they are not known or do not exist."""
    if window.begin is None or g.dims is None or x.dims is None:
        return None
    end, missing = [], []
    spatial = zip(g.dims[2:], x.dims[2:], window.strides, window.extents, window.begin, strict=True)
    for out, size, stride, extent, begin in spatial:
        if not isinstance(out, int) or not isinstance(size, int) or begin < 0:
            return None
        over = (out - 1) * stride + extent - begin - size
        if over < 0 and -over >= stride:
            return None
        end.append(max(over, 0))
        missing.append(max(-over, 0))
    return [*window.begin, *end], missing


def conv_transpose(context: RuleContext) -> Gradients:
    """The adjoint of a transposed convolution is the convolution with the same kernel."""
    x, weight, group, g = context.x(0), context.x(1), context.integer("group", 1), context.g
    window = window_of(context, kernel_of(context, weight), x)
    if context.wants(1):
        raise NoRule("its kernel is computed in the graph")
    gradients: list[Value | None] = [None, None, None]
    if context.wants(0):
        begin, end = _transposed_pads(context, window, x)
        data = g.emit.op(
            "Conv",
            g,
            weight,
            dims=x.dims,
            kernel_shape=list(window.kernel),
            strides=list(window.strides),
            dilations=list(window.dilations),
            pads=[*begin, *end],
            group=group,
        )
        gradients[0] = _cut(data, x)
    if context.wants(2):
        gradients[2] = _bias(context)
    return gradients


def _cut(data: Value, x: Value) -> Value:
    """An output padding as wide as the stride makes one window too many."""
    emit, axes = data.emit, range(2, data.rank)
    sizes = emit.concat([emit.size(x, axis) for axis in axes])
    return emit.op("Slice", data, emit.ints([0] * len(axes)), sizes, emit.ints(axes), dims=x.dims)


def _transposed_pads(context: RuleContext, window: Window, x: Value) -> tuple[list[int], list[int]]:
    n = len(window.kernel)
    extra = context.integers("output_padding") or [0] * n
    shape = context.integers("output_shape")
    if shape is None and window.auto_pad in ("NOTSET", "VALID"):
        return list(window.begin or ()), list(window.end or ())
    totals = []
    for axis in range(n):
        room = window.extents[axis] + extra[axis]
        size = x.dims[axis + 2] if x.dims is not None else None
        if shape is None:
            totals.append(room - window.strides[axis])
        elif isinstance(size, int):
            totals.append(window.strides[axis] * (size - 1) + room - shape[axis])
        else:
            raise NoRule("output_shape with an input of unknown shape")
    if min(totals) < 0:
        raise NoRule("its output is larger than what its windows touch")
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (small, large) if window.auto_pad == "SAME_UPPER" else (large, small)
