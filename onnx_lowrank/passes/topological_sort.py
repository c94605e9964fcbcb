"""Nodes in topological order, as ONNX requires: some converters append new nodes at the end, which onnxruntime accepts.

By hand: graphsurgeon's toposort sorts by depth, so that nodes move which need not, and calls itself for every node of a
chain, which some hundreds in reverse order are too many for.
"""

from __future__ import annotations

import heapq

import onnx

from onnx_lowrank.graph.traversal import reads


def topologically_sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the main graph's nodes sorted; the model itself where they are, or cannot be."""
    nodes = list(model.graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [sorted({makers[name] for name in reads(node) if name in makers}) for node in nodes]
    if all(not need or need[-1] < index for index, need in enumerate(needs)):
        return model
    order = _sorted(needs)
    if len(order) < len(nodes):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes[index] for index in order)
    return copy


def _sorted(needs: list[list[int]]) -> list[int]:
    """Return every node after what it needs, the earliest first (Kahn); not all of them where there is a cycle."""
    missing = [len(need) for need in needs]
    users: list[list[int]] = [[] for _ in needs]
    for index, need in enumerate(needs):
        for needed in need:
            users[needed].append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    return order
