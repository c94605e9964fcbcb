"""Resize (and Upsample's successor): interpolation is a matrix along every axis; its transpose goes back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_lowrank.gradient.emitter import FLOAT, NoRule, Value
from onnx_lowrank.gradient.rule_context import Gradients, RuleContext
from onnx_lowrank.gradient.tensor_ops import transpose

SCALES = 2


def resize(context: RuleContext) -> Gradients:
    """Blocks of a nearest upsampling by whole numbers are averaged; else a matrix product for every axis."""
    context.only_wants(0)
    if context.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise NoRule("crops")
    if context.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NoRule("keeps the aspect ratio")
    x = context.x()
    g = context.g if context.g.dims is not None else replace(context.g, dims=(None,) * x.rank)
    factors = _whole_factors(context)
    if factors is not None:
        mean = context.emit.op("AveragePool", g, dims=x.dims, kernel_shape=factors, strides=factors)
        return [mean * float(math.prod(factors))]
    for axis in _resized_axes(context):
        g = _along(g, _matrix(context, axis), axis)
    return [g.like(x)]


def _axes(context: RuleContext) -> list[int]:
    """The axes that scales and sizes speak of."""
    axes = context.integers("axes")
    rank = context.x().rank
    return list(range(rank)) if axes is None else [axis % rank for axis in axes]


def _whole_factors(context: RuleContext) -> list[int] | None:
    """The factors of an NCHW nearest upsampling in which every element becomes one block, else None."""
    scales = context.constant(SCALES) if context.has(SCALES) else None
    if scales is None or scales.size == 0 or context.text("mode", "nearest") != "nearest":
        return None
    how = (
        context.text("coordinate_transformation_mode", "half_pixel"),
        context.text("nearest_mode", "round_prefer_floor"),
    )
    blocks = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
    by_axis = dict(zip(_axes(context), scales.reshape(-1).tolist(), strict=True))
    factors = [by_axis.get(axis, 1.0) for axis in range(context.x().rank)]
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    if how not in blocks or not whole or len(factors) < 3 or factors[:2] != [1.0, 1.0]:
        return None
    return [int(factor) for factor in factors[2:]]


def _resized_axes(context: RuleContext) -> list[int]:
    """The axes whose extent changes, or may."""
    x, y = context.x().dims, context.y().dims
    scales = context.constant(SCALES) if context.has(SCALES) else None
    chosen = []
    for place, axis in enumerate(_axes(context)):
        if scales is not None and scales.size:
            changes = float(scales.reshape(-1)[place]) != 1
        else:
            changes = x is None or y is None or x[axis] is None or x[axis] != y[axis]
        if changes:
            chosen.append(axis)
    return chosen


def _matrix(context: RuleContext, axis: int) -> Value:
    """E (in, out): row i is the i-th unit vector resized along this axis, so y = Eᵀ x and dx = E g."""
    emit, size = context.emit, context.emit.size(context.x(), axis)
    square = emit.op("Expand", emit.constant(np.ones((1, 1), np.float32)), emit.concat([size, size]))
    unit = emit.op("EyeLike", square, elem=FLOAT)
    ones = emit.ints([1, 1])
    image = emit.op("Reshape", unit, emit.concat([ones, size, size]))
    place = _axes(context).index(axis)
    node = NodeProto(op_type="Resize", name=emit.fresh("Resize"))
    if context.has(SCALES) and context.x(SCALES).dims != (0,):
        each = emit.op("Gather", context.x(SCALES), emit.ints([place]), axis=0)
        scales = emit.concat([emit.constant(np.ones(3, np.float32)), each])
        node.input.extend([image.name, "", scales.name])
    else:
        out = emit.size(context.y(), axis)
        node.input.extend([image.name, "", "", emit.concat([ones, size, out]).name])
    kept = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
    node.attribute.extend(attribute for attribute in context.node.attribute if attribute.name in kept)
    node.output.append(emit.fresh("Resize"))
    emit.nodes.append(node)
    resized = Value(emit, node.output[0], FLOAT)
    return emit.op("Squeeze", resized, emit.ints([0, 1])).cast(context.x().elem)


def _along(g: Value, matrix: Value, axis: int) -> Value:
    """Multiply g by a matrix (in, out) along one axis."""
    emit, last = g.emit, g.rank - 1
    if axis == last:
        return emit.op("MatMul", g, emit.op("Transpose", matrix, perm=[1, 0]), dims=_unknown(g, axis))
    if axis == last - 1:
        return emit.op("MatMul", matrix, g, elem=g.elem, dims=_unknown(g, axis))
    order = [i for i in range(g.rank) if i != axis] + [axis]
    back = [order.index(i) for i in range(g.rank)]
    return transpose(_along(transpose(g, order), matrix, last), back)


def _unknown(g: Value, axis: int) -> tuple[int | str | None, ...] | None:
    return None if g.dims is None else (*g.dims[:axis], None, *g.dims[axis + 1 :])
