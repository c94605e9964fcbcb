"""Names of a graph, and new ones."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_lowrank.graph.traversal import all_graphs


def all_names(model: onnx.ModelProto) -> set[str]:
    """Return every name in use: values, nodes and weights, subgraphs included."""
    names: set[str] = set()
    for graph in all_graphs(model):
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
        self._last: dict[str, int] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._taken

    def take(self, names: Iterable[str]) -> None:
        """Give these no more."""
        self._taken.update(names)

    def __call__(self, hint: str) -> str:
        """Return `hint`, with a number behind it where it is taken; from now on it is."""
        name, number = hint, self._last.get(hint, 1)
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        self._last[hint] = number
        return name
