"""Taking elements by index, and putting them."""

from __future__ import annotations

from onnx_lowrank.gradient.emitter import INT64, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import pad_axes, reshape, scatter_add, unsqueeze, where, zeros, zeros_like


def gather(context: RuleContext) -> Gradients:
    """Every slice of g is added where it was taken from."""
    x, g, emit, axis = context.x(), context.g, context.emit, context.axis(0)
    fixed = context.constant(1)
    if fixed is not None and fixed.size == 1:
        return [_one_slice(g, int(fixed.reshape(-1)[0]), x, axis)]
    indices = reshape(context.x(1), [-1]).cast(INT64)
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


def gather_elements(context: RuleContext) -> Gradients:
    """Every element of g is added where it was taken from."""
    x, g = context.x(), context.g
    base = zeros_like(x)
    return [
        context.emit.op(
            "ScatterElements", base, context.x(1), g, dims=x.dims, axis=context.integer("axis", 0), reduction="add"
        )
    ]


def gather_nd(context: RuleContext) -> Gradients:
    """The same for index tuples."""
    if context.integer("batch_dims", 0):
        raise NoRule("batch_dims")
    x = context.x()
    return [context.emit.op("ScatterND", zeros_like(x), context.x(1), context.g, dims=x.dims, reduction="add")]


def scatter_nd(context: RuleContext) -> Gradients:
    """What was overwritten gets nothing; the updates get g from where they were put."""
    g, indices, updates, emit = context.g, context.x(1), context.x(2), context.emit
    added = _adds(context)
    data = g
    if context.wants(0) and not added:
        nothing = zeros(emit.shape(updates), g.elem)
        data = emit.op("ScatterND", g, indices, nothing, dims=g.dims)
    put = emit.op("GatherND", g, indices, dims=updates.dims) if context.wants(2) else None
    return [data, None, put]


def scatter_elements(context: RuleContext) -> Gradients:
    """The same, element by element along an axis."""
    g, indices, updates, emit, axis = context.g, context.x(1), context.x(2), context.emit, context.integer("axis", 0)
    added = _adds(context)
    data = g
    if context.wants(0) and not added:
        nothing = zeros(emit.shape(updates), g.elem)
        data = emit.op("ScatterElements", g, indices, nothing, dims=g.dims, axis=axis)
    put = emit.op("GatherElements", g, indices, dims=updates.dims, axis=axis) if context.wants(2) else None
    return [data, None, put]


def _adds(context: RuleContext) -> bool:
    reduction = context.text("reduction", "none")
    if reduction not in ("none", "add"):
        raise NoRule(f"reduction={reduction!r}")
    return reduction == "add"
