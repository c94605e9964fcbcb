"""Every graph and node of a model, what is fed and read, and how often local functions are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import onnx
from onnx import NodeProto

Function: TypeAlias = tuple[str, str]
"""Domain and name of a local function."""


def subgraphs(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, onnx.GraphProto]]:
    """Yield every graph below this one, with the node that holds it."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield node, inner
                yield from subgraphs(inner)


def all_graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Return the main graph and every graph below it."""
    return [model.graph, *(inner for _, inner in subgraphs(model.graph))]


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, those of subgraphs and local functions included."""
    for graph in all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def fed_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that hold samples: before IR 4 every initializer had to be listed as an input, too."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def bodies(graph: onnx.GraphProto, above: str = "") -> Iterator[tuple[str, onnx.NodeProto, onnx.GraphProto]]:
    """Yield every graph below this one, under a name of its own, with the node that holds it; outer ones first."""
    for node in graph.node:
        for name, inner in inner_graphs(node, above):
            yield name, node, inner
            yield from bodies(inner, f"{name} > ")


def inner_graphs(node: onnx.NodeProto, above: str = "") -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs that a node holds itself, each under the name that `bodies` gives it."""
    for attribute in node.attribute:
        for index, inner in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
            yield f"{above}{place_of(node)}#{attribute.name}{index or ''}", inner


def place_of(holder: onnx.NodeProto) -> str:
    """Return a node that holds a body, as a user knows it."""
    return f"{holder.op_type} {holder.name or holder.output[0]}"


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

    for graph in all_graphs(model) if bodies else []:
        count(graph.node)
    return calls


def reads(node: NodeProto) -> list[str]:
    """Return what a node reads, names that its subgraphs take from outside included."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            for inner in graph.node:
                names.extend(reads(inner))
            names.extend(value.name for value in graph.output)
    return names


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return tensor -> the nodes of the graph that read it, by themselves or in a body, in order."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in set(reads(node)):
            found.setdefault(name, []).append(node)
    return found
