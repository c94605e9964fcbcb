"""Extents of every tensor, as far as shape inference knows them, without looking at large weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import onnx

Dims: TypeAlias = tuple[int | None, ...]
"""Extents; None where one is not known."""
READ = 1024
"""Elements up to which inference may need a constant's numbers (shapes, axes); of others the shape is enough."""


def tensor_dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """Return tensor -> extents for the main graph's tensors of known rank, constants included."""
    skeleton = _without_weights(model)
    known = _inferred(skeleton)
    while ranks := _ranks_of_reshapes(skeleton.graph, known):  # each round knows further
        skeleton.graph.value_info.extend(ranks)
        known |= {value.name: _dims(value) for value in ranks} | _inferred(skeleton)
    return known | stored_dims(model)


def _inferred(skeleton: onnx.ModelProto) -> dict[str, Dims]:
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # a broken model: what the file says has to do
        graph = skeleton.graph
    values = (*graph.value_info, *graph.output, *graph.input)
    return {v.name: _dims(v) for v in values if v.type.tensor_type.HasField("shape")}


def _ranks_of_reshapes(graph: onnx.GraphProto, known: Mapping[str, Dims]) -> list[onnx.ValueInfoProto]:
    """Return the outputs of Reshape of which only the rank is known, by the length of the shape that is computed."""
    found = []
    for node in graph.node:
        length = known.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if length and length[0] is not None and node.output[0] not in known:
            value = onnx.helper.make_empty_tensor_value_info(node.output[0])
            value.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(length[0]))
            found.append(value)
    return found


def stored_dims(model: onnx.ModelProto) -> dict[str, Dims]:
    """Return initializer -> extents."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def aligned(before: Dims | None, after: Dims | None) -> Mapping[int, int]:
    """Return axis -> axis, both from the end, of the same numbers in another shape where only axes of size 1 differ.

    One size on either side may be unknown: the others say what it is. Empty where more than that differs.
    """
    if before is None or after is None:
        return {}
    left, right = ([axis - len(dims) for axis, size in enumerate(dims) if size != 1] for dims in (before, after))
    sizes = [before[axis] for axis in left]
    if sizes != [after[axis] for axis in right] or sizes.count(None) > 1:
        return {}
    return dict(zip(left, right, strict=True))


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with large initializers as inputs, which have a shape alone."""
    graph = model.graph
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(graph, field))
    bare.graph.name = graph.name
    listed = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= READ:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            bare.graph.input.append(value)
    return bare
