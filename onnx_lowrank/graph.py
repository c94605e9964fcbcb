"""The graph as onnx-graphsurgeon reads it: constant weights, and every input that each of them reaches.

Reading goes through graphsurgeon, writing does not: a round trip through it loses metadata, so `rewrite` splices
protobuf nodes and leaves everything else of the file as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.errors import ModelError

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL


@dataclass(frozen=True, slots=True)
class Use:
    """One input of one node of the main graph."""

    node: onnx.NodeProto
    slot: int


@dataclass(frozen=True, slots=True)
class GraphView:
    """Constant tensors by name, and where they go.

    weights: root name -> its tensor, an initializer's or a Constant node's; Identity chains are followed to the root.
    uses: root name -> the inputs it reaches, in graph order. inner: roots that a subgraph reads from outside.
    hidden: tensors that live inside subgraphs and local functions. fed: tensors that depend on what the inputs hold,
    not on their shapes alone.
    """

    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)
    hidden: list[tuple[str, onnx.TensorProto]] = field(default_factory=list)
    fed: set[str] = field(default_factory=set)


def read_graph(model: onnx.ModelProto) -> GraphView:
    """Return the view. Raises ModelError where graphsurgeon cannot read the graph."""
    try:
        graph = gs.import_onnx(model)
    except (gs.util.exception.OnnxGraphSurgeonException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the graph cannot be read by onnx-graphsurgeon: {error}; export it again") from error
    view = GraphView()
    for tensor in model.graph.initializer:
        view.weights[tensor.name] = tensor
    for node in model.graph.node:
        value = constant_value(node)
        if value is not None:
            view.weights[node.output[0]] = value
    for proto, node in zip(model.graph.node, graph.nodes, strict=True):
        if node.op == "Identity" and _root(node.inputs[0], view) and not _is_output(model, proto.output[0]):
            continue
        for slot, tensor in enumerate(node.inputs):
            name = _root(tensor, view)
            if name:
                view.uses.setdefault(name, []).append(Use(proto, slot))
    for inner in _inner_nodes(graph):
        view.inner.update(name for tensor in inner.inputs if (name := _root(tensor, view)))
    view.hidden.extend(_hidden(model))
    view.fed.update(_fed(model))
    return view


def _fed(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that depend on the inputs' values; whatever comes out of a subgraph counts as such."""
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = {value.name for value in model.graph.input} - stored
    for node in model.graph.node:
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        if inner or (node.op_type not in ("Shape", "Size") and not fed.isdisjoint(node.input)):
            fed.update(node.output)
    return fed


def tensor_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many axes tensors have, as far as the file and shape inference tell."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # broken, or beyond what protobuf can copy
        inferred = model.graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node, None for other nodes and for values that are not tensors."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)


def _root(tensor: gs.Tensor, view: GraphView) -> str:
    """Return the constant behind a tensor, through Identity nodes; empty where there is none."""
    while tensor.name not in view.weights:
        producer = tensor.inputs[0] if tensor.inputs else None
        if producer is None or producer.op != "Identity" or not producer.inputs:
            return ""
        tensor = producer.inputs[0]
    return str(tensor.name)


def _is_output(model: onnx.ModelProto, name: str) -> bool:
    return any(value.name == name for value in model.graph.output)


def _inner_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from value.nodes
                yield from _inner_nodes(value)


def subgraphs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.GraphProto]]:
    """Yield every graph below this one, with the node that holds it."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield node, inner
                yield from subgraphs(inner)


def _hidden(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for holder, graph in subgraphs(model.graph):
        place = f"{holder.op_type} {holder.name or holder.output[0]}"
        yield from ((place, tensor) for tensor in graph.initializer)
        yield from ((place, value) for node in graph.node if (value := constant_value(node)) is not None)
    for function in model.functions:
        place = f"function {function.name}"
        yield from ((place, value) for node in function.node if (value := constant_value(node)) is not None)


def all_names(model: onnx.ModelProto) -> set[str]:
    """Return every name in use: values, nodes and weights, subgraphs included."""
    names: set[str] = set()
    for graph in [model.graph, *(inner for _, inner in subgraphs(model.graph))]:
        for node in graph.node:
            names.update([node.name, *node.input, *node.output])
        for values in (graph.input, graph.output, graph.value_info, graph.initializer):
            names.update(value.name for value in values)
        names.update(sparse.values.name for sparse in graph.sparse_initializer)
    return names
