"""What a model ends in: seeds go in before a final Softmax or Sigmoid, where the gradient is stable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx import ModelProto, NodeProto, helper

from onnx_lowrank.gradient.emitter import NoRule
from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.gradient.simplify import simplify

FinalKind: TypeAlias = Literal["softmax", "log_softmax", "sigmoid", "none"]
KINDS: dict[str, FinalKind] = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
SAME = ("Identity", "Cast", "Dropout")
"""Operators that pass an output on as it is."""


@dataclass(frozen=True, slots=True)
class Final:
    """`tensor` is where to seed: what goes into the final activation, or the output itself where there is none.

    `axis` holds the classes of a softmax.
    """

    kind: FinalKind
    tensor: str
    axis: int = -1


def final_activation(model: ModelProto, output: str) -> Final:
    """Return the activation that makes an output, through Identity, Cast and Dropout."""
    try:
        forward = Forward(model)
    except NoRule:
        return Final("none", output)
    simplify(forward, [output])
    makers = {name: node for node in forward.nodes for name in node.output if name}
    node = makers.get(output)
    while node is not None and node.op_type in SAME and not node.domain:
        node = makers.get(node.input[0])
    if node is None or node.domain or node.op_type not in KINDS or not forward.is_float(node.input[0]):
        return Final("none", output)
    return Final(KINDS[node.op_type], node.input[0], _axis(node))


def _axis(node: NodeProto) -> int:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return int(values.get("axis", -1))
