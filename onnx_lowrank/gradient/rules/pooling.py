"""Pooling: where the windows were, their gradient goes back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import helper

from onnx_lowrank.gradient.emitter import DOUBLE, FLOAT, INT64, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.rules.convolution import scatter_windows
from onnx_lowrank.gradient.rules.window import Window, same_begin, window_of
from onnx_lowrank.gradient.tensor_ops import count as ratio
from onnx_lowrank.gradient.tensor_ops import expand_like, reduce_sum, reshape, reshape_like, zeros


def max_pool(context: RuleContext) -> Gradients:
    """g goes to the element that was the largest, by the indices that MaxPool returns."""
    if context.integer("storage_order", 0):
        raise NoRule("column-major indices")
    x, g, emit = context.x(), context.g, context.emit
    window = window_of(context, context.integers("kernel_shape") or (), x)
    apart = all(stride >= extent for stride, extent in zip(window.strides, window.extents, strict=True))
    indices = reshape(context.extra_output(1, INT64), [-1])
    base = zeros(reshape(emit.op("Size", x, elem=INT64), [1]), g.elem)
    # Windows that do not overlap take every element at most once: no need to add.
    reduction = None if apart else "add"
    flat = emit.op("ScatterElements", base, indices, reshape(g, [-1]), axis=0, reduction=reduction)
    return [reshape_like(flat, x)]


def average_pool(context: RuleContext) -> Gradients:
    """g / count spread over each window: a transposed convolution with ones, one channel at a time."""
    x, g = context.x(), _actual(context, context.g)
    kernel = tuple(context.integers("kernel_shape") or ())
    window = window_of(context, kernel, x)
    share = g * _share(context, window, x)
    ones = np.ones((1, 1, *kernel), np.float64 if x.elem == DOUBLE else np.float32)
    weight = context.emit.constant(ones).cast(x.elem)
    spatial = [context.emit.size(g, axis) for axis in range(2, g.rank)]
    shape = context.emit.concat([context.emit.ints([-1, 1]), *spatial])
    plane = reshape(share, shape, (None, 1, *(g.dims or ())[2:]))
    single = Value(context.emit, x.name, x.elem, (None, 1, *(x.dims or ())[2:]))
    return [reshape_like(scatter_windows(plane, weight, window, single, 1).like(single), x)]


def _actual(context: RuleContext, value: Value) -> Value:
    """In ceil mode onnxruntime leaves out windows that begin behind the input, shape inference does not."""
    if not context.integer("ceil_mode", 0) or value.dims is None:
        return value
    return Value(context.emit, value.name, value.elem, (*value.dims[:2], *[None] * (len(value.dims) - 2)))


def _share(context: RuleContext, window: Window, x: Value) -> float | Value:
    """One over the number of elements that a window averages."""
    padded = window.begin is None or window.end is None or any(window.begin + window.end)
    ceil, include = context.integer("ceil_mode", 0), context.integer("count_include_pad", 0)
    if not ceil and (include or not padded):
        return 1.0 / math.prod(window.kernel)
    return 1.0 / _counted(context, window, x, include=bool(include))


def _counted(context: RuleContext, window: Window, x: Value, *, include: bool) -> Value:
    """The number of elements in every window: ones, summed with enough zeros around them."""
    emit, n = context.emit, len(window.kernel)
    sizes = emit.concat([emit.ints([1, 1]), *(emit.size(x, axis) for axis in range(2, 2 + n))])
    one = helper.make_tensor("value", FLOAT, (1,), [1.0])
    ones = emit.op("ConstantOfShape", sizes, elem=FLOAT, value=one)
    begin = emit.ints(window.begin) if window.begin is not None else same_begin(window, x)
    room = [extent + stride for extent, stride in zip(window.extents, window.strides, strict=True)]
    if include and window.begin is not None and window.end is not None:
        ones = _pad(ones, begin, window.end, 1.0)
        begin = emit.ints([0] * n)
    ones = _pad(ones, begin, room, 0.0)
    tap = emit.constant(np.ones((1, 1, *window.kernel), np.float32))
    count = emit.op("Conv", ones, tap, strides=list(window.strides), dilations=list(window.dilations))
    limits = emit.concat([emit.size(_actual(context, context.y()), axis) for axis in range(2, 2 + n)])
    return emit.op("Slice", count, emit.ints([0] * n), limits, emit.ints(range(2, 2 + n))).cast(x.elem)


def _pad(x: Value, begin: Value, end: Sequence[int], number: float) -> Value:
    emit = x.emit
    pads = emit.concat([emit.ints([0, 0]), begin, emit.ints([0, 0, *end])])
    return emit.op("Pad", x, pads, emit.scalar(number, x.elem))


def global_average_pool(context: RuleContext) -> Gradients:
    """g over the number of positions, at every position."""
    x, g = context.x(), context.g
    return [expand_like(g / ratio(x, g), x) if not _known(x) else expand_like(g * (1 / _positions(x)), x)]


def _known(x: Value) -> bool:
    return x.dims is not None and all(isinstance(size, int) for size in x.dims[2:])


def _positions(x: Value) -> int:
    return math.prod(size for size in (x.dims or ())[2:] if isinstance(size, int))


def global_max_pool(context: RuleContext) -> Gradients:
    """g to the largest element of every channel, in equal parts where several are."""
    x, y, g = context.x(), context.y(), context.g
    mask = x.mask("Equal", y)
    return [(mask * (g / reduce_sum(mask, range(2, x.rank), keepdims=True))).like(x)]
