"""Weights that are factored, and what only led to them, are removed."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnx_lowrank.graph.clean_up import leading_to
from onnx_lowrank.graph.constants import PASSES, constant_value
from onnx_lowrank.graph.traversal import reads


def remove_unread(model: onnx.ModelProto, weights: set[str]) -> None:
    """Remove the factored weights, the nodes that only led to them, and what only those read (a shape, a scale).

    Other nodes that lead nowhere were there before, and stay.
    """
    graph = model.graph
    carried = _carried(graph.node, weights)
    carriers = [node for node in graph.node if _hands_on(node) and node.output[0] in carried]
    others = [node for node in graph.node if not _hands_on(node) or node.output[0] not in carried]
    needed = {value.name for value in graph.output}.union(*map(reads, others))
    useful = leading_to(carriers, needed)
    needed.update(*map(reads, useful))
    dead = {node.output[0] for node in carriers} - {node.output[0] for node in useful}
    for node in [node for node in carriers if node.output[0] in dead]:
        graph.node.remove(node)
    for values in (graph.initializer, graph.input, graph.value_info):
        for value in [v for v in values if v.name in carried - needed]:
            values.remove(value)


def _carried(nodes: Sequence[onnx.NodeProto], weights: set[str]) -> set[str]:
    """Return the tensors that hold factored weights after nodes of PASSES, and those that such nodes read."""
    carried = set(weights)
    for node in nodes:  # in topological order
        if node.op_type in PASSES and node.input[0] in carried:
            carried.update(node.output)
    for node in reversed(nodes):
        if _hands_on(node) and node.output[0] in carried:
            carried.update(node.input)
    return carried


def _hands_on(node: onnx.NodeProto) -> bool:
    return node.op_type in PASSES or constant_value(node) is not None
