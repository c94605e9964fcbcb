"""Slice and Pad: windows into an input, and room around it."""

from __future__ import annotations

from onnx_lowrank.gradient.step import Gradients, Step
from onnx_lowrank.gradient.tensor_ops import arange, pad_axes, scatter_add
from onnx_lowrank.gradient.values import INT64, NoRule, Value


def slice_rule(step: Step) -> Gradients:
    """g where it was taken from, zeros elsewhere."""
    x, g = step.x(), step.g
    room: dict[int, tuple[Value, Value]] = {}
    for index, (axis, stride) in enumerate(_axes_and_steps(step)):
        if stride == 1:
            before = _start(step, index, axis)
            room[axis] = (before, step.emit.size(x, axis) - step.emit.size(step.y(), axis) - before)
        else:
            taken = _taken(step, index, axis, stride)
            g = scatter_add(g.like(step.y()), taken, x, axis)
    return [(pad_axes(g.like(x), room, x) if room else g).like(x)]


def _axes_and_steps(step: Step) -> list[tuple[int, int]]:
    starts = step.x(1)
    count = starts.dims[0] if starts.dims is not None else None
    axes, steps = step.constant(3), step.constant(4)
    if not isinstance(count, int) or (step.has(3) and axes is None) or (step.has(4) and steps is None):
        raise NoRule("axes or steps known only at run time")
    rank = step.x().rank
    listed = list(range(count)) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    strides = [1] * count if steps is None else [int(stride) for stride in steps.reshape(-1)]
    return list(zip(listed, strides, strict=True))


def _entry(step: Step, index: int, place: int) -> Value:
    """One number of an input, as an int64 vector of one."""
    emit, fixed = step.emit, step.constant(index)
    if fixed is not None:
        return emit.ints([int(fixed.reshape(-1)[place])])
    vector = step.x(index).cast(INT64)
    return emit.op("Slice", vector, emit.ints([place]), emit.ints([place + 1]), emit.ints([0]), dims=(1,))


def _start(step: Step, place: int, axis: int) -> Value:
    """Where the slice begins: negative counts from the end."""
    emit, fixed = step.emit, step.constant(1)
    start, size = _entry(step, 1, place), emit.size(step.x(), axis)
    if fixed is not None and int(fixed.reshape(-1)[place]) >= 0:
        return emit.op("Min", start, size)
    from_end = emit.op("Max", start + size, emit.ints([0]))
    if fixed is not None:
        return from_end
    return emit.op("Where", start.compare("Less", 0), from_end, emit.op("Min", start, size), elem=INT64)


def _taken(step: Step, place: int, axis: int, stride: int) -> Value:
    """The positions along an axis that the slice takes."""
    emit = step.emit
    every = arange(emit.size(step.x(), axis))
    return emit.op("Slice", every, _entry(step, 1, place), _entry(step, 2, place), emit.ints([0]), emit.ints([stride]))


def pad(step: Step) -> Gradients:
    """Constant padding is cut off again; mirrored elements add to their originals."""
    step.only_wants(0)
    x, g, emit = step.x(), step.g, step.emit
    mode = step.text("mode", "constant")
    axes = step.x(3) if step.has(3) else None
    if mode == "constant":
        negative = -step.x(1)
        return [emit.op("Pad", g, negative, None, axes, dims=x.dims)]
    listed = list(range(x.rank))
    if axes is not None:
        fixed = step.constant(3)
        if fixed is None:
            raise NoRule("axes known only at run time")
        listed = [int(axis) % x.rank for axis in fixed.reshape(-1)]
    for place, axis in enumerate(listed):
        before, after = _entry(step, 1, place), _entry(step, 1, place + len(listed))
        source = emit.op("Pad", arange(emit.size(x, axis)), emit.concat([before, after]), mode=mode)
        g = scatter_add(g, source, x, axis)
    return [g.like(x)]
