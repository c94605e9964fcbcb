"""Resize (and Upsample's successor): interpolation is a matrix along every axis; its transpose goes back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from onnx_lowrank.gradient.step import Gradients, Step
from onnx_lowrank.gradient.tensor_ops import transpose
from onnx_lowrank.gradient.values import FLOAT, NoRule, Value

SCALES, SIZES = 2, 3


def resize(step: Step) -> Gradients:
    """Blocks of a nearest upsampling by whole numbers are averaged; else a matrix product for every axis."""
    step.only_wants(0)
    if step.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise NoRule("crops")
    if step.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NoRule("keeps the aspect ratio")
    x = step.x()
    g = step.g if step.g.dims is not None else replace(step.g, dims=(None,) * x.rank)
    factors = _whole_factors(step)
    if factors is not None:
        mean = step.emit.op("AveragePool", g, dims=x.dims, kernel_shape=factors, strides=factors)
        return [mean * float(math.prod(factors))]
    for axis in _resized_axes(step):
        g = _along(g, _matrix(step, axis), axis)
    return [g.like(x)]


def _axes(step: Step) -> list[int]:
    """The axes that scales and sizes speak of."""
    axes = step.integers("axes")
    rank = step.x().rank
    return list(range(rank)) if axes is None else [axis % rank for axis in axes]


def _whole_factors(step: Step) -> list[int] | None:
    """The factors of an NCHW nearest upsampling in which every element becomes one block, else None."""
    scales = step.constant(SCALES) if step.has(SCALES) else None
    if scales is None or scales.size == 0 or step.text("mode", "nearest") != "nearest":
        return None
    how = (
        step.text("coordinate_transformation_mode", "half_pixel"),
        step.text("nearest_mode", "round_prefer_floor"),
    )
    blocks = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
    by_axis = dict(zip(_axes(step), scales.reshape(-1).tolist(), strict=True))
    factors = [by_axis.get(axis, 1.0) for axis in range(step.x().rank)]
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    if how not in blocks or not whole or len(factors) < 3 or factors[:2] != [1.0, 1.0]:
        return None
    return [int(factor) for factor in factors[2:]]


def _resized_axes(step: Step) -> list[int]:
    """The axes whose extent changes, or may."""
    x, y = step.x().dims, step.y().dims
    scales = step.constant(SCALES) if step.has(SCALES) else None
    chosen = []
    for place, axis in enumerate(_axes(step)):
        if scales is not None and scales.size:
            changes = float(scales.reshape(-1)[place]) != 1
        else:
            changes = x is None or y is None or x[axis] is None or x[axis] != y[axis]
        if changes:
            chosen.append(axis)
    return chosen


def _matrix(step: Step, axis: int) -> Value:
    """E (in, out): row i is the i-th unit vector resized along this axis, so y = Eᵀ x and dx = E g."""
    emit, size = step.emit, step.emit.size(step.x(), axis)
    square = emit.op("Expand", emit.constant(np.ones((1, 1), np.float32)), emit.concat([size, size]))
    unit = emit.op("EyeLike", square, elem=FLOAT)
    ones = emit.ints([1, 1])
    image = emit.op("Reshape", unit, emit.concat([ones, size, size]))
    place = _axes(step).index(axis)
    node = NodeProto(op_type="Resize", name=emit.fresh("Resize"))
    if step.has(SCALES) and step.x(SCALES).dims != (0,):
        each = emit.op("Gather", step.x(SCALES), emit.ints([place]), axis=0)
        scales = emit.concat([emit.constant(np.ones(3, np.float32)), each])
        node.input.extend([image.name, "", scales.name])
    else:
        out = emit.size(step.y(), axis)
        node.input.extend([image.name, "", "", emit.concat([ones, size, out]).name])
    kept = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
    node.attribute.extend(attribute for attribute in step.node.attribute if attribute.name in kept)
    node.output.append(emit.fresh("Resize"))
    emit.nodes.append(node)
    resized = Value(emit, node.output[0], FLOAT)
    return emit.op("Squeeze", resized, emit.ints([0, 1])).cast(step.x().elem)


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
