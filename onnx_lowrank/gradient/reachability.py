"""Which part of the forward graph lies between the targets and the loss, with fused operators taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from onnx_lowrank.gradient.emitter import NoRule
from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.gradient.functions import function_nodes
from onnx_lowrank.gradient.fused import fused_nodes
from onnx_lowrank.gradient.rules.table import rule_of
from onnx_lowrank.graph.traversal import reads


@dataclass(frozen=True, slots=True)
class Reachable:
    """Float tensors that depend on a target, and float tensors that an output depends on."""

    below: frozenset[str]
    above: frozenset[str]

    def holds(self, node: NodeProto) -> bool:
        """Whether a gradient has to go through the node."""
        return any(name in self.below for name in reads(node)) and any(name in self.above for name in node.output)


def reachable_of(forward: Forward, targets: Iterable[str], outputs: Iterable[str]) -> Reachable:
    """Return what lies between the targets and the outputs."""
    below = set(targets)
    for node in forward.nodes:
        if any(name in below for name in reads(node)):
            below.update(name for name in node.output if forward.is_float(name))
    above = set(outputs)
    for node in reversed(forward.nodes):
        if any(name in above for name in node.output):
            above.update(name for name in reads(node) if forward.is_float(name))
    return Reachable(frozenset(below), frozenset(above))


def take_apart(forward: Forward, targets: Sequence[str], outputs: Sequence[str]) -> None:
    """Replace nodes in the slice that have no rule by what they are made of, as far as that is known."""
    refused: set[str] = set()
    while True:
        reachable = reachable_of(forward, targets, outputs)
        used = {name for node in forward.nodes for name in reads(node)} | {value.name for value in forward.outputs}
        nodes, forward.nodes = forward.nodes, []
        changed = False
        for node in nodes:
            parts = None
            if rule_of(node) is None and node.output[0] not in refused and reachable.holds(node):
                parts = _parts(node, forward, used | set(outputs))
                if parts is None:
                    refused.add(node.output[0])
            changed = changed or parts is not None
            forward.take([node] if parts is None else parts)
        if not changed:
            return
        forward.infer()


def _parts(node: NodeProto, forward: Forward, used: set[str]) -> list[NodeProto] | None:
    try:
        return fused_nodes(node, forward, used) or function_nodes(node, forward)
    except NoRule:
        return None
