"""A copy of a model that also returns intermediate tensors, or takes some weights as inputs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_lowrank.graph import constant_value


def expose(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """Return a copy whose graph also outputs `tensors` (onnxruntime finds their types itself)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    for name in dict.fromkeys(tensors):
        if name not in present:
            copy.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return copy


def overridable(model: onnx.ModelProto, weights: Iterable[str]) -> onnx.ModelProto:
    """Return a copy in which each of these weights is an optional input: fed, it is replaced; left out, it stays.

    So one session can measure any substitution. Constant nodes become initializers; needs IR 4, which is set.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 4)
    wanted = set(weights)
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
