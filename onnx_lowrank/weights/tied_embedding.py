"""Tables that are looked up and, transposed, multiplied by: which nodes read them so, and through which transforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_lowrank.graph.view import Use
from onnx_lowrank.ops import Call, as_transposed, by_type, call_of, first_output, op_name, transposed_type
from onnx_lowrank.weights.transforms import attribute

TABLE = np.arange(6.0).reshape(3, 2)
"""An example of a table: its transpose has another shape."""


@dataclass(frozen=True, slots=True)
class TiedEmbedding:
    """nodes: the first outputs of those that multiply by the transposed table; empty where a weight is no such table.

    entries: the tensors that hold the transpose of what the lookup reads.
    """

    nodes: frozenset[str] = frozenset()
    entries: frozenset[str] = frozenset()

    def call(self, use: Use, opset: int, shape: tuple[int, ...]) -> Call:
        """Return a use as the operators see it; `shape` is that of the table."""
        arrives = shape[::-1] if use.node.input[use.slot] in self.entries else shape
        call = call_of(use.node, use.slot, opset, arrives)
        return as_transposed(call) if call.output in self.nodes else call


def tied_embedding_of(uses: Sequence[Use], opset: int) -> TiedEmbedding:
    """Return how the nodes that read a weight tie it; transforms that only transpose it for one do not count."""
    lookups = [use for use in uses if op_name(use.node) == "Gather" and use.slot == 0]
    if not lookups:
        return TiedEmbedding()
    way = _turns(lookups[0])
    entries = {use.node.input[use.slot] for use in uses if _turns(use) != way}
    nodes = {
        first_output(use.node)
        for use in uses
        if _multiplies(use, opset, transposed=use.node.input[use.slot] in entries)
    }
    odd = any(use.node.input[use.slot] in entries and first_output(use.node) not in nodes for use in uses)
    return TiedEmbedding(frozenset(nodes), frozenset(entries)) if nodes and not odd else TiedEmbedding()


def plain(transforms: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the transforms without the Transpose nodes at their end, Casts aside."""
    end = _end(transforms)
    return [transform for index, transform in enumerate(transforms) if index < end or transform.op_type == "Cast"]


def _end(transforms: Sequence[onnx.NodeProto]) -> int:
    """Return the index from which transforms only transpose and cast."""
    end = len(transforms)
    while end and (transforms[end - 1].op_type == "Cast" or _transposes(transforms[end - 1])):
        end -= 1
    return end


def _transposes(transform: onnx.NodeProto) -> bool:
    return transform.op_type == "Transpose" and list(attribute(transform, "perm") or (1, 0)) == [1, 0]


def _turns(use: Use) -> int:
    return sum(_transposes(transform) for transform in use.transforms[_end(use.transforms) :]) % 2


def _multiplies(use: Use, opset: int, *, transposed: bool) -> bool:
    """Whether what the node makes of its input is Wᵀ x, W canonical as the lookup has it: (width, rows)."""
    op = by_type(op_name(use.node))
    if op is None or transposed_type(op.op_type) is None or use.slot > 1:
        return False
    table = TABLE.T if transposed else TABLE
    call = call_of(use.node, use.slot, opset, table.shape)
    return np.array_equal(call.canonical(table), TABLE)
