"""A copy of a model that also returns intermediate tensors, or takes some weights as inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from onnx_lowrank.graph.clean_up import leading_to
from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.types import Array


def expose(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a copy whose graph also outputs `tensors` (onnxruntime finds their types itself)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy


def upstream(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a copy that outputs `tensors` alone, with only the nodes and weights that lead to them.

    All of the graph's inputs stay, so it takes the same feeds.
    """
    return between(model, {}, tensors)


def between(model: onnx.ModelProto, known: Mapping[str, Array], tensors: Iterable[str]) -> onnx.ModelProto:
    """Return `upstream` of `tensors` behind those that are known: they become inputs, and nothing leads to them.

    known: values of one sample; of their shapes only the number of axes counts.
    """
    wanted = list(dict.fromkeys(tensors))
    nodes = leading_to(model.graph.node, wanted, known)
    needed = {*wanted, *(name for node in nodes for name in reads(node))}
    stored = {tensor.name for tensor in model.graph.initializer}
    copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = copy.graph
    graph.name = model.graph.name
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    # before IR 4 a weight is listed as an input too: without its value it would have to be fed
    graph.input.extend(value for value in model.graph.input if value.name in needed or value.name not in stored)
    made = {name for node in nodes for name in node.output}
    fed = [name for name in known if name in needed and name not in made]
    graph.input.extend(_input_like(name, known[name]) for name in fed)
    outputs = {value.name: value for value in model.graph.output}
    apart = {*wanted, *fed}
    graph.value_info.extend(v for v in model.graph.value_info if v.name in needed and v.name not in apart)
    empty = onnx.helper.make_empty_tensor_value_info
    graph.output.extend(outputs.get(name) or empty(name) for name in wanted)
    return copy


def _input_like(name: str, array: Array) -> onnx.ValueInfoProto:
    dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, dtype, [None] * array.ndim)


def overridable(
    model: onnx.ModelProto, weights: Iterable[str], computed: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """Return a copy in which each of these weights is an optional input: fed, it is replaced; left out, it stays.

    So one session can measure any substitution. Constant nodes become initializers; needs IR 4, which is set. `made`
    has the values of those that nodes make of a constant.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 4)
    wanted = set(weights)
    _stored_instead(copy, computed or {})
    stored = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in [n for n in copy.graph.node if constant_value(n) is not None and n.output[0] in wanted]:
        tensor = copy.graph.initializer.add()
        value = constant_value(node)
        if value is not None:
            tensor.CopyFrom(value)
        tensor.name = node.output[0]
        stored[tensor.name] = tensor
        copy.graph.node.remove(node)
    listed = {value.name for value in copy.graph.input}
    for name in sorted(wanted - listed):
        tensor = stored[name]
        copy.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return copy


def _stored_instead(model: onnx.ModelProto, values: Mapping[str, Array]) -> None:
    """Replace the nodes that make these tensors by initializers, in place."""
    for node in [n for n in model.graph.node if n.output and n.output[0] in values]:
        model.graph.node.remove(node)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in values.items())


def with_weights(model: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a copy in which these weights, by tensor name, hold other numbers: stored ones, or made of a constant."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    computed = {name for node in copy.graph.node if constant_value(node) is None for name in node.output}
    _stored_instead(copy, {name: np.ascontiguousarray(weights[name]) for name in weights if name in computed})
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    for node in copy.graph.node:
        if node.output and node.output[0] in weights and constant_value(node) is not None:
            value = onnx.numpy_helper.from_array(np.ascontiguousarray(weights[node.output[0]]), node.output[0])
            del node.attribute[:]
            node.attribute.append(onnx.helper.make_attribute("value", value))
    return copy
