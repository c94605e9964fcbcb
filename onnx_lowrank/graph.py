"""The graph as onnx-graphsurgeon reads it: constant weights, and every input that each of them reaches.

Reading goes through graphsurgeon, writing does not: a round trip through it loses metadata, so `rewrite` splices
protobuf nodes and leaves everything else of the file as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.errors import ModelError

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL


Function: TypeAlias = tuple[str, str]
"""Domain and name of a local function."""
PASSES = {
    *("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"),
    *("QuantizeLinear", "DequantizeLinear"),
}
"""Operators that hand a constant on, in another form at most; whatever else they read must be constant, too."""


@dataclass(frozen=True, slots=True)
class Use:
    """One input of one node. `steps`: the nodes that a constant comes through, Identity aside.

    body: which If, Loop or Scan body the node is in, as `bodies` calls it; empty in the main graph.
    """

    node: onnx.NodeProto
    slot: int
    steps: tuple[onnx.NodeProto, ...] = ()
    body: str = ""

    @property
    def place(self) -> str:
        """The node that holds the body, as a user knows it."""
        return self.body.rsplit("#", 1)[0]


@dataclass(frozen=True, slots=True)
class GraphView:
    """Constant tensors by name, and where they go.

    weights: root name -> its tensor, an initializer's or a Constant node's; chains of PASSES are followed to the root.
    uses: root name -> the inputs it reaches, in graph order, those in bodies last.
    inner: root that a body returns as it is -> the node that holds the body.
    hidden: tensors that live inside subgraphs and local functions.
    constant: every tensor that comes of a root alone -> the root, and the steps to it.
    fed: tensors that depend on what the inputs hold, not on their shapes alone.
    """

    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    inner: dict[str, str] = field(default_factory=dict)
    hidden: list[tuple[str, onnx.TensorProto]] = field(default_factory=list)
    constant: dict[str, tuple[str, tuple[onnx.NodeProto, ...]]] = field(default_factory=dict)
    fed: set[str] = field(default_factory=set)


def read_graph(model: onnx.ModelProto) -> GraphView:
    """Return the view. Raises ModelError where graphsurgeon cannot read the graph."""
    try:
        gs.import_onnx(model)
    except (gs.util.exception.OnnxGraphSurgeonException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the graph cannot be read by onnx-graphsurgeon: {error}; export it again") from error
    view = GraphView()
    for tensor in model.graph.initializer:
        view.weights[tensor.name] = tensor
    for node in model.graph.node:
        value = constant_value(node)
        if value is not None:
            view.weights[node.output[0]] = value
    origins = _Origins(model, view.weights)
    for node in model.graph.node:
        if origins.passes(node):
            for slot, name in enumerate(node.input[1:], 1):
                _used(view, origins, Use(node, slot), name)
            continue
        for slot, name in enumerate(node.input):
            _used(view, origins, Use(node, slot), name)
    for body, holder, inner in bodies(model.graph):
        for node in inner.node:
            for slot, name in enumerate(node.input):
                _used(view, origins, Use(node, slot, body=body), name)
        for root in {origin[0] for value in inner.output if (origin := origins.of(value.name))}:
            view.inner.setdefault(root, _place(holder))
    view.hidden.extend(_hidden(model))
    view.constant.update(origins.known)
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
    """Return the tensor of a Constant node (whole numbers as well), None for other nodes and for other values."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for a in node.attribute:
        if a.name == "value" and a.HasField("t"):
            tensor: onnx.TensorProto = a.t
            return tensor
        if a.name in ("value_int", "value_ints") and not a.ref_attr_name:
            return onnx.numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(a), np.int64), node.output[0])
    return None


def _used(view: GraphView, origins: _Origins, use: Use, name: str) -> None:
    origin = origins.of(name)
    if origin is not None:
        view.uses.setdefault(origin[0], []).append(Use(use.node, use.slot, origin[1], use.body))


class _Origins:
    """The constant behind a tensor, and the steps in between."""

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> None:
        self._returned = {value.name for value in model.graph.output}
        self.known: dict[str, tuple[str, tuple[onnx.NodeProto, ...]]] = {name: (name, ()) for name in weights}
        for node in model.graph.node:  # in topological order
            if self.passes(node):
                root, steps = self.known[node.input[0]]
                self.known[node.output[0]] = (root, steps if node.op_type == "Identity" else (*steps, node))

    def passes(self, node: onnx.NodeProto) -> bool:
        """Whether a node only hands a constant on, to other nodes alone."""
        return (
            node.op_type in PASSES
            and node.domain in ("", "ai.onnx")
            and node.output[0] not in self._returned
            and all(name in self.known for name in node.input if name)
            and bool(node.input)
        )

    def of(self, name: str) -> tuple[str, tuple[onnx.NodeProto, ...]] | None:
        """Return a tensor's root and its steps, first to last; None where no constant is behind it."""
        return self.known.get(name)


def subgraphs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.GraphProto]]:
    """Yield every graph below this one, with the node that holds it."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield node, inner
                yield from subgraphs(inner)


def bodies(graph: onnx.GraphProto, above: str = "") -> Iterator[tuple[str, onnx.NodeProto, onnx.GraphProto]]:
    """Yield every graph below this one, under a name of its own, with the node that holds it; outer ones first."""
    for node in graph.node:
        for name, each in inner_graphs(node, above):
            yield name, node, each
            yield from bodies(each, f"{name} > ")


def inner_graphs(node: onnx.NodeProto, above: str = "") -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs that a node holds itself, each under the name that `bodies` gives it."""
    for attribute in node.attribute:
        for index, each in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
            yield f"{above}{_place(node)}#{attribute.name}{index or ''}", each


def _place(holder: onnx.NodeProto) -> str:
    return f"{holder.op_type} {holder.name or holder.output[0]}"


def _hidden(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for holder, graph in subgraphs(model.graph):
        yield from ((_place(holder), tensor) for tensor in graph.initializer)
        yield from ((_place(holder), value) for node in graph.node if (value := constant_value(node)) is not None)
    calls = function_calls(model)
    for function in model.functions:
        times = calls[function.domain, function.name]
        more = f", which is called {times} times: inlined, it would be stored as often" if times > 1 else ""
        place = f"function {function.name}{more}"
        yield from ((place, value) for node in function.node if (value := constant_value(node)) is not None)


def function_calls(model: onnx.ModelProto) -> Counter[Function]:
    """Return how often every local function is called, through other functions as well."""
    bodies = {(function.domain, function.name): function for function in model.functions}
    calls: Counter[Function] = Counter()

    def count(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies:
                calls[key] += 1
                count(bodies[key].node)

    for graph in [model.graph, *(inner for _, inner in subgraphs(model.graph))] if bodies else []:
        count(graph.node)
    return calls


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


class Fresh:
    """Gives names that are not taken."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken

    def __call__(self, hint: str) -> str:
        """Return `hint`, with a number behind it where it is taken; from now on it is."""
        name, number = hint, 1
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name
