"""Where units lie between two constant maps, so that both become narrower and no node is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

_ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Identity", "Cast", "BatchNormalization"])
_ACTIVATIONS = frozenset(["Erf", "Relu", "Clip", "Gelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu"])
ELEMENTWISE = _ARITHMETIC | _ACTIVATIONS
POOLING = frozenset(["GlobalAveragePool", "ReduceMean", "Flatten", "Squeeze", "AveragePool", "MaxPool", "Pad"])
AROUND_HEADS = frozenset(["Reshape", "Transpose", "Add", "Mul", "Div", "Softmax", "Where"])


@dataclass(frozen=True, slots=True)
class Side:
    """A side of a site on which units are projected. blocks: each keeps as many; whole: blocks go as they are.

    head: the units of a block may be mixed, as only linear maps read them.
    """

    site: str
    side: str
    blocks: int = 0
    whole: bool = False
    head: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """One way to make a place narrower. sides: all are projected; of: how many units (of a block) there are.

    share: kept share -> what is kept of every weight of the place.
    """

    name: str
    sides: tuple[Side, ...]
    of: int
    step: int
    share: Callable[[float], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Place:
    """Weights that become narrower together, and the nodes between them."""

    weights: tuple[str, ...]
    forms: tuple[Form, ...]
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A model's nodes by what they make and read."""

    made: Mapping[str, onnx.NodeProto]
    read: Mapping[str, Sequence[onnx.NodeProto]]
    constant: frozenset[str]

    @staticmethod
    def of(model: onnx.ModelProto) -> Graph:
        constant = {tensor.name for tensor in model.graph.initializer}
        made: dict[str, onnx.NodeProto] = {}
        read: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            made |= dict.fromkeys(node.output, node)
            for name in node.input:
                read.setdefault(name, []).append(node)
            if node.op_type == "Constant" or (node.input and constant.issuperset(filter(None, node.input))):
                constant.update(node.output)
        return Graph(made, read, frozenset(constant))

    def inputs(self, node: onnx.NodeProto) -> list[str]:
        """Return what a node reads that is not constant."""
        return [name for name in node.input if name and name not in self.constant]

    def behind(self, tensor: str, ends: frozenset[str], channelwise: Callable[[onnx.NodeProto], bool]) -> Region | None:
        """Return the one end that a tensor is made of through channelwise nodes alone, if nothing else reads them."""
        found, nodes, waiting, seen = set[str](), dict[str, onnx.NodeProto](), [tensor], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in ends:
                found.add(name)
                continue
            node = self.made.get(name)
            if node is None or not channelwise(node):
                return None
            nodes[node.output[0]] = node
            waiting.extend(self.inputs(node))
        inside = {*nodes}
        for name in seen - {tensor}:
            if any(reader.output[0] not in inside for reader in self.read.get(name, ())):
                return None
        return Region(found.pop(), tuple(nodes)) if len(found) == 1 else None

    def back(self, tensor: str, ends: frozenset[str], through: frozenset[str]) -> str | None:
        """Return the first end behind a tensor by the first input that is not constant."""
        while tensor not in ends:
            node = self.made.get(tensor)
            if node is None or node.op_type not in through:
                return None
            tensor = self.inputs(node)[0]
        return tensor


@dataclass(frozen=True, slots=True)
class Region:
    end: str
    nodes: tuple[str, ...]


def places(model: onnx.ModelProto, sites: Sequence[Any], calls: Mapping[str, Any], heads: int) -> list[Place]:
    """Return all places, each weight in one at most. heads: of the attention, 0 for none."""
    graph, by_id = Graph.of(model), {site.id: site for site in sites}
    depthwise = {s.output[0] for s in model.graph.node if s.op_type == "Conv" and s.output[0] not in by_id}

    def channelwise(node: onnx.NodeProto) -> bool:
        return node.op_type in ELEMENTWISE | POOLING or node.output[0] in depthwise

    ends = frozenset(by_id)
    regions = {}
    for site in sites:
        (call,) = calls[site.id]
        graph_input = graph.behind(call.data, ends, channelwise)
        if graph_input is not None and len(graph.read[call.data]) == 1:
            regions[site.id] = graph_input
    found: list[Place] = []
    used: set[str] = set()
    for site in sites:  # three maps around a grouped one
        if site.groups > 1 and site.id in regions:
            after = next((key for key, region in regions.items() if region.end == site.id), None)
            if after is not None:
                found.append(_block(regions, by_id, site, after))
                used.update(found[-1].weights)
    for key, region in regions.items():
        site, before = by_id[key], by_id[region.end]
        if used.isdisjoint((key, region.end)) and site.groups == 1 == before.groups:
            count = site.shape[1]
            if before.shape[0] == count:
                form = Form("units", (Side(key, "in"),), count, 8 if count > 64 else 1, lambda s: (s, s))
                found.append(Place((region.end, key), (form,), region.nodes))
                used.update((key, region.end))
    for site in sites if heads else ():
        found += _attention(graph, by_id, calls, site, heads, ends)
    return found


def _block(regions: Mapping[str, Region], by_id: Mapping[str, Any], site: Any, after: str) -> Place:
    count, size = site.groups, site.shape[1]
    last = Side(after, "in", count)
    forms = (
        Form("groups", (Side(after, "in", count, whole=True),), count, 1, lambda s: (s, s, s)),
        Form("in groups", (last, Side(site.id, "in", count)), size, 1, lambda s: (s, s * s, s)),
        Form("behind groups", (last,), size, 1, lambda s: (1.0, s, s)),
    )
    return Place((regions[site.id].end, site.id, after), forms, (*regions[site.id].nodes, *regions[after].nodes))


def _attention(
    graph: Graph, by_id: Mapping[str, Any], calls: Mapping[str, Any], site: Any, heads: int, ends: frozenset[str]
) -> list[Place]:
    """Return what lies between V and O, and between Q and K, where a site is the output of an attention."""
    product = calls[site.id][0].data
    while (node := graph.made.get(product)) is not None and node.op_type in ("Reshape", "Transpose"):
        product = graph.inputs(node)[0]
    if node is None or node.op_type != "MatMul" or node.output[0] in ends or len(graph.inputs(node)) != 2:
        return []
    scores, value = (graph.back(name, ends | {name}, AROUND_HEADS) for name in node.input)
    score = graph.made[str(scores)]
    while score.op_type in AROUND_HEADS:
        score = graph.made[graph.inputs(score)[0]]
    query, key, value = (graph.back(name, ends, AROUND_HEADS) for name in (*score.input, node.input[1]))
    if query is None or key is None or value is None:
        return []
    size = site.shape[1] // heads
    both = lambda s: (s, s)  # noqa: E731
    return [
        Place((value, site.id), (Form("heads", (Side(site.id, "in", heads, head=True),), size, 1, both),)),
        Place((query, key), (Form("heads", (Side(key, "out", heads, head=True),), size, 1, both),)),
    ]
