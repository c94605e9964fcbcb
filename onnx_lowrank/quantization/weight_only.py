"""int8 weights under float arithmetic: what a file holds shrinks to a quarter, what is computed stays float32.

W ≈ s q, q int8 and symmetric, s one scale a channel: half a step of rounding, and no range of activations to find. A
weight is unpacked by DequantizeLinear at every call. A table is not: rows and their scales are looked up, then
multiplied. So this is for files, not for speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.view import Use, read_graph
from onnx_lowrank.ops import by_type, op_name
from onnx_lowrank.types import Array

LEAST = 256
"""Numbers below which a weight stays as it is: what would be saved is the size of the nodes that it costs."""
STEPS = 127
ZERO = 1e-7
"""Scale of a channel of zeros, beside the largest: onnxruntime's int8 kernels round at every step."""
TABLE = "Gather"
Names: TypeAlias = Mapping[str, tuple[str, str]]
"""Weight -> what its integers and its scales are called."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """q (int8) and the scales along `axis`: of shape (channels,), or (rows, 1, …) of a table."""

    q: Array
    scale: Array
    axis: int
    table: bool


def weights_rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large float32 weights are int8; the same model again where there is none.

    Taken are constants that Conv, ConvTranspose, Gemm, MatMul, LSTM, GRU, RNN and Gather of the main graph read
    directly, all along one axis. The opset must be 13 or later.
    """
    rounded = _rounded(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if not rounded:
        return copy
    fresh = Fresh(all_names(model))
    names = {name: (fresh(f"{name}.int8"), fresh(f"{name}.scale")) for name in rounded}
    nodes = _unpacking(rounded, names)
    for node in (node for node in model.graph.node if not rounded.keys() & set(node.output)):
        table = node.op_type == TABLE and node.input[0] in rounded
        nodes.extend(_looked_up(node, names[node.input[0]], fresh) if table else [node])
    others = [tensor for tensor in model.graph.initializer if tensor.name not in rounded]
    tensors = [tensor for name, weight in rounded.items() for tensor in _stored(weight, *names[name])]
    for field, values in (("node", nodes), ("initializer", [*others, *tensors])):
        copy.graph.ClearField(field)
        getattr(copy.graph, field).extend(values)
    listed = [value for value in copy.graph.input if value.name in rounded]
    for value in listed:
        copy.graph.input.remove(value)
    return copy


def _rounded(model: onnx.ModelProto) -> dict[str, Rounded]:
    view = read_graph(model)
    outputs = {value.name for value in model.graph.output} | set(view.inner)
    rounded = {}
    for name, tensor in view.weights.items():
        uses = view.uses.get(name, [])
        axes = {_axis(use, name, len(tensor.dims)) for use in uses}
        if tensor.data_type != onnx.TensorProto.FLOAT or name in outputs or len(axes) != 1 or None in axes:
            continue
        array = tensor_array(tensor)
        tables = {use.node.op_type == TABLE for use in uses}
        if array.size >= LEAST and len(tables) == 1 and np.isfinite(array).all():
            rounded[name] = _rounded_weight(array, int(next(iter(axes)) or 0), tables.pop())
    return rounded


def _axis(use: Use, name: str, dims: int) -> int | None:
    """Return the axis of a weight's channels, each with a scale of its own; None where it is no weight."""
    node, slot = use.node, use.slot
    if node.input[slot] != name or use.body or node.domain not in ("", "ai.onnx") or dims < 2:
        return None
    op = by_type(op_name(node))
    if op is not None:
        return op.scale_axis(node, slot, dims)
    return None


def _rounded_weight(array: Array, axis: int, table: bool) -> Rounded:
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.abs(array).max(axis=others, keepdims=True).astype(np.float64) / STEPS
    scale = np.maximum(scale, max(ZERO * scale.max(), np.finfo(np.float32).tiny)).astype(np.float32)
    q = np.clip(np.rint(array / scale), -STEPS, STEPS).astype(np.int8)
    return Rounded(q, scale if table else scale.reshape(-1), axis, table)


def _stored(weight: Rounded, integers: str, scales: str) -> list[onnx.TensorProto]:
    return [onnx.numpy_helper.from_array(weight.q, integers), onnx.numpy_helper.from_array(weight.scale, scales)]


def _unpacking(rounded: Mapping[str, Rounded], names: Names) -> list[onnx.NodeProto]:
    """Return the nodes that give every weight but a table under its old name."""
    return [
        onnx.helper.make_node("DequantizeLinear", list(names[name]), [name], name=f"{name}.unpacked", axis=weight.axis)
        for name, weight in rounded.items()
        if not weight.table
    ]


def _looked_up(node: onnx.NodeProto, names: tuple[str, str], fresh: Fresh) -> Sequence[onnx.NodeProto]:
    """Return a Gather of int8 rows, one of their scales, and their product."""
    (integers, scales), (ids, out) = names, (node.input[1], node.output[0])
    rows, steps, wide = (fresh(f"{out}.{what}") for what in ("rows", "scales", "float"))
    return [
        onnx.helper.make_node(TABLE, [integers, ids], [rows], name=rows, axis=0),
        onnx.helper.make_node(TABLE, [scales, ids], [steps], name=steps, axis=0),
        onnx.helper.make_node("Cast", [rows], [wide], name=wide, to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [wide, steps], [out], name=node.name),
    ]
