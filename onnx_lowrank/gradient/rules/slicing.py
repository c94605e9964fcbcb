"""Slice and Pad: windows into an input, and room around it."""

from __future__ import annotations

from onnx_lowrank.gradient.emitter import INT64, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import arange, pad_axes, scatter_add


def slice_rule(context: RuleContext) -> Gradients:
    """g where it was taken from, zeros elsewhere."""
    x, g = context.x(), context.g
    room: dict[int, tuple[Value, Value]] = {}
    for index, (axis, stride) in enumerate(_axes_and_steps(context)):
        if stride == 1:
            before = _start(context, index, axis)
            room[axis] = (before, context.emit.size(x, axis) - context.emit.size(context.y(), axis) - before)
        else:
            taken = _taken(context, index, axis, stride)
            g = scatter_add(g.like(context.y()), taken, x, axis)
    return [(pad_axes(g.like(x), room, x) if room else g).like(x)]


def _axes_and_steps(context: RuleContext) -> list[tuple[int, int]]:
    starts = context.x(1)
    count = starts.dims[0] if starts.dims is not None else None
    axes, steps = context.constant(3), context.constant(4)
    if not isinstance(count, int) or (context.has(3) and axes is None) or (context.has(4) and steps is None):
        raise NoRule("axes or steps known only at run time")
    rank = context.x().rank
    listed = list(range(count)) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    strides = [1] * count if steps is None else [int(stride) for stride in steps.reshape(-1)]
    return list(zip(listed, strides, strict=True))


def _entry(context: RuleContext, index: int, place: int) -> Value:
    """One number of an input, as an int64 vector of one."""
    emit, fixed = context.emit, context.constant(index)
    if fixed is not None:
        return emit.ints([int(fixed.reshape(-1)[place])])
    vector = context.x(index).cast(INT64)
    return emit.op("Slice", vector, emit.ints([place]), emit.ints([place + 1]), emit.ints([0]), dims=(1,))


def _start(context: RuleContext, place: int, axis: int) -> Value:
    """Where the slice begins: negative counts from the end."""
    emit, fixed = context.emit, context.constant(1)
    start, size = _entry(context, 1, place), emit.size(context.x(), axis)
    if fixed is not None and int(fixed.reshape(-1)[place]) >= 0:
        return emit.op("Min", start, size)
    from_end = emit.op("Max", start + size, emit.ints([0]))
    if fixed is not None:
        return from_end
    return emit.op("Where", start.compare("Less", 0), from_end, emit.op("Min", start, size), elem=INT64)


def _taken(context: RuleContext, place: int, axis: int, stride: int) -> Value:
    """The positions along an axis that the slice takes."""
    emit = context.emit
    every = arange(emit.size(context.x(), axis))
    return emit.op(
        "Slice", every, _entry(context, 1, place), _entry(context, 2, place), emit.ints([0]), emit.ints([stride])
    )


def pad(context: RuleContext) -> Gradients:
    """Constant padding is cut off again; mirrored elements add to their originals."""
    context.only_wants(0)
    x, g, emit = context.x(), context.g, context.emit
    mode = context.text("mode", "constant")
    axes = context.x(3) if context.has(3) else None
    if mode == "constant":
        negative = -context.x(1)
        return [emit.op("Pad", g, negative, None, axes, dims=x.dims)]
    listed = list(range(x.rank))
    if axes is not None:
        fixed = context.constant(3)
        if fixed is None:
            raise NoRule("axes known only at run time")
        listed = [int(axis) % x.rank for axis in fixed.reshape(-1)]
    for place, axis in enumerate(listed):
        before, after = _entry(context, 1, place), _entry(context, 1, place + len(listed))
        source = emit.op("Pad", arange(emit.size(x, axis)), emit.concat([before, after]), mode=mode)
        g = scatter_add(g, source, x, axis)
    return [g.like(x)]
