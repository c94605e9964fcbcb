"""Which nodes lead to given tensors: onnx-graphsurgeon's clean-up, on a skeleton of the graph that has names alone.

There is nothing that it could lose or refuse: weights, types and attributes are not shown to it, and what it keeps is
looked up among the protobuf nodes, with all their metadata. It takes 60 µs a node, so of a part of a large model it is
shown the part alone.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.graph.traversal import reads


def leading_to(
    nodes: Sequence[onnx.NodeProto], tensors: Iterable[str], known: Container[str] = ()
) -> list[onnx.NodeProto]:
    """Return the nodes, in their order, that these tensors depend on; of a subgraph all that it reads counts.

    Nothing leads to tensors that are known.
    """
    tensors = list(dict.fromkeys(tensors))
    variables: dict[str, gs.Variable] = {}

    def named(names: Iterable[str]) -> list[gs.Variable]:
        return [variables.setdefault(name, gs.Variable(name)) for name in names if name]

    bare = [
        gs.Node(
            nodes[index].op_type,
            str(index),
            inputs=named(reads(nodes[index])),
            outputs=named(name for name in nodes[index].output if name not in known),
        )
        for index in _near(nodes, tensors, known)
    ]
    with gs.logger.G_LOGGER.suppress():
        useful = gs.Graph(bare, outputs=named(tensors)).cleanup().nodes
    return [nodes[int(node.name)] for node in useful]


def _near(nodes: Sequence[onnx.NodeProto], tensors: Iterable[str], known: Container[str]) -> list[int]:
    """Return the places of the nodes that are met on the way back from tensors to what is known."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name and name not in known}
    met = {makers[name] for name in tensors if name in makers}
    ahead = list(met)
    while ahead:
        new = {makers[name] for name in reads(nodes[ahead.pop()]) if name in makers} - met
        met |= new
        ahead.extend(new)
    return sorted(met)
