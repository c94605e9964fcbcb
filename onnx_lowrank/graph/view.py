"""A view of a graph: constant weights, and every input that reads each of them.

It refers to the model's own protobuf nodes and tensors: nothing is copied, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from onnx_lowrank.graph.constants import PASSES, constant_value
from onnx_lowrank.graph.traversal import bodies, fed_inputs, function_calls, place_of, subgraphs


@dataclass(frozen=True, slots=True)
class Use:
    """One input of one node. `transforms`: the nodes between the stored constant and the input, Identity aside.

    body: which If, Loop or Scan body the node is in, as `bodies` calls it; empty in the main graph.
    """

    node: onnx.NodeProto
    slot: int
    transforms: tuple[onnx.NodeProto, ...] = ()
    body: str = ""

    @property
    def place(self) -> str:
        """The node that holds the body, as a user knows it."""
        return self.body.rsplit("#", 1)[0]


@dataclass(frozen=True, slots=True)
class GraphView:
    """Constant tensors by name, and where they go.

    weights: root name -> its tensor, an initializer's or a Constant node's; chains of PASSES are followed to the root.
    uses: root name -> the inputs that read it, in graph order, those in bodies last.
    inner: root that a body returns as it is -> the node that holds the body.
    hidden: tensors that live inside subgraphs and local functions.
    constant: every tensor that is computed from a root alone -> the root, and the nodes in between.
    fed: tensors that depend on what the inputs hold, not on their shapes alone.
    """

    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)
    uses: dict[str, list[Use]] = field(default_factory=dict)
    inner: dict[str, str] = field(default_factory=dict)
    hidden: list[tuple[str, onnx.TensorProto]] = field(default_factory=list)
    constant: dict[str, tuple[str, tuple[onnx.NodeProto, ...]]] = field(default_factory=dict)
    fed: set[str] = field(default_factory=set)


def read_graph(model: onnx.ModelProto) -> GraphView:
    """Return the view of a model whose nodes are in topological order."""
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
            view.inner.setdefault(root, place_of(holder))
    view.hidden.extend(_hidden(model))
    view.constant.update(origins.known)
    view.fed.update(_fed(model))
    return view


def _fed(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that depend on the inputs' values; whatever comes out of a subgraph counts as such."""
    fed = {value.name for value in fed_inputs(model)}
    for node in model.graph.node:
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        if inner or (node.op_type not in ("Shape", "Size") and not fed.isdisjoint(node.input)):
            fed.update(node.output)
    return fed


def tensor_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many axes tensors have, as far as the file and shape inference show."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # broken, or beyond what protobuf can copy
        inferred = model.graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _used(view: GraphView, origins: _Origins, use: Use, name: str) -> None:
    origin = origins.of(name)
    if origin is not None:
        view.uses.setdefault(origin[0], []).append(Use(use.node, use.slot, origin[1], use.body))


class _Origins:
    """The constant behind a tensor, and the nodes in between."""

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> None:
        self._returned = {value.name for value in model.graph.output}
        self.known: dict[str, tuple[str, tuple[onnx.NodeProto, ...]]] = {name: (name, ()) for name in weights}
        for node in model.graph.node:  # in topological order
            if self.passes(node):
                root, transforms = self.known[node.input[0]]
                self.known[node.output[0]] = (root, transforms if node.op_type == "Identity" else (*transforms, node))

    def passes(self, node: onnx.NodeProto) -> bool:
        """Whether a node only forwards a constant, to other nodes alone."""
        return (
            node.op_type in PASSES
            and node.domain in ("", "ai.onnx")
            and node.output[0] not in self._returned
            and all(name in self.known for name in node.input if name)
            and bool(node.input)
        )

    def of(self, name: str) -> tuple[str, tuple[onnx.NodeProto, ...]] | None:
        """Return a tensor's root and the nodes in between, first to last; None where no constant is behind it."""
        return self.known.get(name)


def _hidden(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for holder, graph in subgraphs(model.graph):
        yield from ((place_of(holder), tensor) for tensor in graph.initializer)
        yield from ((place_of(holder), value) for node in graph.node if (value := constant_value(node)) is not None)
    calls = function_calls(model)
    for function in model.functions:
        times = calls[function.domain, function.name]
        more = f", which is called {times} times: inlined, it would be stored as often" if times > 1 else ""
        place = f"function {function.name}{more}"
        yield from ((place, value) for node in function.node if (value := constant_value(node)) is not None)
