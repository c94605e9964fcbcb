"""Weights stored inside If, Loop and Scan bodies, moved to the main graph, where they can be replaced and measured.

Bodies read the main graph's tensors by name, so nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import bodies
from onnx_lowrank.ops import by_type
from onnx_lowrank.weights.transforms import TYPES

SCOPED_IR = 4
"""From here on an initializer need not be an input as well."""


def lifted(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return the model with such weights in its main graph, and how many; the model itself where there are none."""
    if model.ir_version < SCOPED_IR or not any(_movable(inner) for _, _, inner in bodies(model.graph)):
        return model, 0
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names, count = Fresh(all_names(copy)), 0
    for body, _, inner in list(bodies(copy.graph)):
        for tensor in _movable(inner):
            count += 1
            moved = copy.graph.initializer.add()
            moved.CopyFrom(tensor)
            moved.name = names(f"{body}/{tensor.name}")
            _remove(inner, tensor.name)
            _rename(inner, tensor.name, moved.name)
    return copy, count


def _movable(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Return a body's own matrices and kernels that an operator with factorable weights reads, under their names."""
    read = set(_read_by_operators(graph))
    returned = {value.name for value in graph.output}
    stored = [*graph.initializer]
    for node in graph.node:
        value = constant_value(node)
        if value is not None:
            stored.append(onnx.TensorProto())
            stored[-1].CopyFrom(value)
            stored[-1].name = node.output[0]
    return [
        tensor
        for tensor in stored
        if tensor.name in read - returned and tensor.data_type in TYPES and len(tensor.dims) > 1
    ]


def _read_by_operators(graph: onnx.GraphProto) -> Iterator[str]:
    for scope in [graph, *(inner for _, _, inner in bodies(graph))]:
        for node in scope.node:
            if node.domain in ("", "ai.onnx") and by_type(node.op_type) is not None:
                yield from node.input[:2]


def _remove(graph: onnx.GraphProto, name: str) -> None:
    for tensor in [tensor for tensor in graph.initializer if tensor.name == name]:
        graph.initializer.remove(tensor)
    for node in [node for node in graph.node if constant_value(node) is not None and node.output[0] == name]:
        graph.node.remove(node)
    for value in [value for value in graph.value_info if value.name == name]:
        graph.value_info.remove(value)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for scope in [graph, *(inner for _, _, inner in bodies(graph))]:
        for node in scope.node:
            node.input[:] = [new if name == old else name for name in node.input]
