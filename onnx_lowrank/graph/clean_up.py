"""Which nodes lead to given tensors: onnx-graphsurgeon's clean-up, on a skeleton of the graph that has names alone.

There is nothing that it could lose or refuse: weights, types and attributes are not shown to it, and what it keeps is
looked up among the protobuf nodes, with all their metadata.
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
    variables: dict[str, gs.Variable] = {}

    def named(names: Iterable[str]) -> list[gs.Variable]:
        return [variables.setdefault(name, gs.Variable(name)) for name in names if name]

    bare = [
        gs.Node(
            node.op_type,
            str(index),
            inputs=named(reads(node)),
            outputs=named(name for name in node.output if name not in known),
        )
        for index, node in enumerate(nodes)
    ]
    with gs.logger.G_LOGGER.suppress():
        useful = gs.Graph(bare, outputs=named(dict.fromkeys(tensors))).cleanup().nodes
    return [nodes[int(node.name)] for node in useful]
