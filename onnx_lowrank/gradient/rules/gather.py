"""Taking elements by index, and putting them."""

from __future__ import annotations

from onnx_lowrank.gradient.step import Gradients, Step
from onnx_lowrank.gradient.tensor_ops import (
    pad_axes,
    reshape,
    scatter_add,
    unsqueeze,
    where,
    zeros,
    zeros_like,
)
from onnx_lowrank.gradient.values import INT64, NoRule, Value


def gather(step: Step) -> Gradients:
    """Every slice of g is added where it was taken from."""
    x, g, emit, axis = step.x(), step.g, step.emit, step.axis(0)
    fixed = step.constant(1)
    if fixed is not None and fixed.size == 1:
        return [_one_slice(g, int(fixed.reshape(-1)[0]), x, axis)]
    indices = reshape(step.x(1), [-1]).cast(INT64)
    size = emit.size(x, axis)
    positions = where(indices.compare("Less", 0), indices + size, indices)
    flat = emit.concat([emit.ints([0] * axis + [-1]), *(emit.size(x, i) for i in range(axis + 1, x.rank))])
    dims = None if x.dims is None else (*x.dims[:axis], None, *x.dims[axis + 1 :])
    return [scatter_add(reshape(g, flat, dims), positions, x, axis).like(x)]


def _one_slice(g: Value, index: int, x: Value, axis: int) -> Value:
    """A single index: g with zeros around it, no scattering."""
    emit = g.emit
    dims = None if x.dims is None else (*x.dims[:axis], 1, *x.dims[axis + 1 :])
    shape = [emit.ints([1]) if i == axis else emit.size(x, i) for i in range(x.rank)]
    row = unsqueeze(g, [axis]) if g.rank == x.rank - 1 else reshape(g, emit.concat(shape), dims)
    size = emit.size(x, axis)
    before = emit.ints([index]) if index >= 0 else size + index
    return pad_axes(row, {axis: (before, size - 1 - before)}, x)


def gather_elements(step: Step) -> Gradients:
    """Every element of g is added where it was taken from."""
    x, g = step.x(), step.g
    base = zeros_like(x)
    return [
        step.emit.op("ScatterElements", base, step.x(1), g, dims=x.dims, axis=step.integer("axis", 0), reduction="add")
    ]


def gather_nd(step: Step) -> Gradients:
    """The same for index tuples."""
    if step.integer("batch_dims", 0):
        raise NoRule("batch_dims")
    x = step.x()
    return [step.emit.op("ScatterND", zeros_like(x), step.x(1), step.g, dims=x.dims, reduction="add")]


def scatter_nd(step: Step) -> Gradients:
    """What was overwritten gets nothing; the updates get g from where they were put."""
    g, indices, updates, emit = step.g, step.x(1), step.x(2), step.emit
    added = _adds(step)
    data = g
    if step.wants(0) and not added:
        nothing = zeros(emit.shape(updates), g.elem)
        data = emit.op("ScatterND", g, indices, nothing, dims=g.dims)
    put = emit.op("GatherND", g, indices, dims=updates.dims) if step.wants(2) else None
    return [data, None, put]


def scatter_elements(step: Step) -> Gradients:
    """The same, element by element along an axis."""
    g, indices, updates, emit, axis = step.g, step.x(1), step.x(2), step.emit, step.integer("axis", 0)
    added = _adds(step)
    data = g
    if step.wants(0) and not added:
        nothing = zeros(emit.shape(updates), g.elem)
        data = emit.op("ScatterElements", g, indices, nothing, dims=g.dims, axis=axis)
    put = emit.op("GatherElements", g, indices, dims=updates.dims, axis=axis) if step.wants(2) else None
    return [data, None, put]


def _adds(step: Step) -> bool:
    reduction = step.text("reduction", "none")
    if reduction not in ("none", "add"):
        raise NoRule(f"reduction={reduction!r}")
    return reduction == "add"
