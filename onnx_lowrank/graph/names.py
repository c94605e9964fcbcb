"""Names of a graph, and new ones."""

from __future__ import annotations

import onnx

from onnx_lowrank.graph.traversal import subgraphs


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
