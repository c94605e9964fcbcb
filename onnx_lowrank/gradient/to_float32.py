"""The float32 twin of a model in half precision: same graph, same names, every float16 and bfloat16 a float32.

Gradients of a half-precision model underflow, and onnxruntime's CPU provider has few kernels for them. The twin takes
the same feeds (its inputs stay as they are and are cast) and differs from the model by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.traversal import fed_inputs

FLOAT = int(TensorProto.FLOAT)
HALVES = frozenset({int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)})
TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type", "softmax_precision"})
"""Integers that name an element type."""


def widened(model: ModelProto) -> ModelProto:
    """Return the twin; the model itself where nothing in it is half precision."""
    if not is_half(model):
        return model
    twin = ModelProto()
    twin.CopyFrom(model)
    _widen_graph(twin.graph, [value for value in fed_inputs(twin) if value.type.tensor_type.elem_type in HALVES])
    for function in twin.functions:
        _widen_nodes(function.node)
    return twin


def is_half(model: ModelProto) -> bool:
    """Whether anything is stored, given, made or returned in half precision."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return _has_halves(model.graph) or any(map(_node_has_halves, nodes))


def _has_halves(graph: GraphProto) -> bool:
    values = (*graph.input, *graph.output)
    return (
        any(tensor.data_type in HALVES for tensor in graph.initializer)
        or any(value.type.tensor_type.elem_type in HALVES for value in values)
        or any(map(_node_has_halves, graph.node))
    )


def _node_has_halves(node: NodeProto) -> bool:
    return any(
        (a.name in TYPE_ATTRIBUTES and a.i in HALVES)
        or (a.HasField("t") and a.t.data_type in HALVES)
        or any(map(_has_halves, _graphs(a)))
        for a in node.attribute
    )


def _graphs(attribute: AttributeProto) -> Iterable[GraphProto]:
    return [attribute.g] if attribute.HasField("g") else attribute.graphs


def _widen_graph(graph: GraphProto, kept: Iterable[ValueInfoProto] = ()) -> None:
    """Widen a graph in place; inputs in `kept` keep their type and are cast."""
    names = {value.name: f"{value.name}/float32" for value in kept}
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            if value.type.tensor_type.elem_type in HALVES and (values is not graph.input or value.name not in names):
                value.type.tensor_type.elem_type = FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    _widen_nodes(graph.node)
    _rename(graph, names)
    casts = [helper.make_node("Cast", [old], [new], new, to=FLOAT) for old, new in names.items()]
    nodes = [*casts, *(NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    if casts:
        del graph.node[:]
        graph.node.extend(nodes)


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
                attribute.i = FLOAT
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            for graph in _graphs(attribute):
                _widen_graph(graph)


def _rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Read the cast inputs, in subgraphs as well."""
    for node in graph.node if names else ():
        for slot, name in enumerate(node.input):
            node.input[slot] = names.get(name, name)
        for attribute in node.attribute:
            for inner in _graphs(attribute):
                _rename(inner, names)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in HALVES:
        array = tensor_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
