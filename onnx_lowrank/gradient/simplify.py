"""Three rewrites of the forward graph, equal in result, that make its gradient simpler and faster.

What is computed from constants alone becomes a constant (exporters write shapes and pads as small programs), and zero
padding in front of a convolution becomes the convolution's own: onnxruntime does both by itself, but only where
nothing else reads what lies between. And a softmax of before opset 13, which onnx's converter writes as Flatten,
Softmax and Reshape, is one node again where the last axis was meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.gradient.forward import SMALL, Forward
from onnx_lowrank.types import Array

NEVER = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
EVALUATION_ERRORS = (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError, IndexError, KeyError)
"""What onnx's reference evaluator raises for an operator or a type that it does not have."""


def simplify(forward: Forward, keep: Collection[str]) -> None:
    """Fold constants and merge pads; tensors named in `keep` stay what they are."""
    fold_constants(forward, keep)
    unite_softmax(forward)
    merge_pads(forward, keep)
    forward.infer()


def fold_constants(forward: Forward, keep: Collection[str]) -> None:
    """Replace nodes by their value where all inputs are small constants."""
    outputs = {value.name for value in forward.outputs} | set(keep)
    nodes, forward.nodes = forward.nodes, []
    for node in nodes:
        values = None if any(name in outputs for name in node.output) else _values(forward, node)
        if values is None:
            forward.nodes.append(node)
        else:
            forward.weights.update({t.name: t for t in values})


def _values(forward: Forward, node: NodeProto) -> list[TensorProto] | None:
    """The node's outputs as tensors, None where it is to stay."""
    given = [name for name in node.input if name]
    small = all(name in forward.weights and forward.elements(name) <= SMALL for name in given)
    subgraph = any(a.HasField("g") or a.graphs for a in node.attribute)
    if node.domain or node.op_type in NEVER or not small or not given or subgraph or "" in node.output:
        return None
    infos = [helper.make_empty_tensor_value_info(name) for name in (*dict.fromkeys(given), *node.output)]
    graph = helper.make_graph([node], "fold", infos[: len(infos) - len(node.output)], infos[-len(node.output) :])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", forward.opset)])
    try:
        with np.errstate(all="ignore"):  # what is not a number here is none in the model's own run
            found = ReferenceEvaluator(model).run(None, {name: forward.constant(name) for name in given})
    except EVALUATION_ERRORS:
        return None
    arrays = [np.asarray(value) for value in found]
    if any(array.size > SMALL or array.dtype.kind not in "iubf" for array in arrays):
        return None
    return [numpy_helper.from_array(array, name) for array, name in zip(arrays, node.output, strict=True)]


def unite_softmax(forward: Forward) -> None:
    """Make Reshape(Softmax(Flatten(x, last axis)), Shape(x)) one softmax of x."""
    makers = {name: node for node in forward.nodes for name in node.output if name}
    uses = Counter(name for node in forward.nodes for name in node.input)
    gone: set[str] = set()
    for node in forward.nodes:
        if node.op_type != "Reshape" or node.domain:
            continue
        soft, shape = makers.get(node.input[0]), makers.get(node.input[1])
        if soft is None or shape is None or soft.op_type not in ("Softmax", "LogSoftmax"):
            continue
        flat = makers.get(soft.input[0])
        if flat is None or flat.op_type != "Flatten" or shape.op_type != "Shape" or flat.input[0] != shape.input[0]:
            continue
        dims, axis = forward.dims(flat.input[0]), _attributes(flat).get("axis", 1)
        if dims is None or axis != len(dims) - 1 or uses[soft.output[0]] != 1 or uses[flat.output[0]] != 1:
            continue
        gone |= {soft.output[0], flat.output[0]}
        node.op_type = soft.op_type
        del node.input[1], node.attribute[:]
        node.input[0] = flat.input[0]
        node.attribute.append(helper.make_attribute("axis", -1))
    forward.nodes = [node for node in forward.nodes if not (node.output and node.output[0] in gone)]


def _attributes(*nodes: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for node in nodes for a in node.attribute}


def merge_pads(forward: Forward, keep: Collection[str]) -> None:
    """Let a convolution do the zero padding in front of it."""
    uses = Counter(name for node in forward.nodes for name in node.input)
    held = {value.name for value in forward.outputs} | set(keep)
    pads = {
        node.output[0]: node
        for node in forward.nodes
        if node.op_type == "Pad" and not node.domain and uses[node.output[0]] == 1 and node.output[0] not in held
    }
    gone: set[str] = set()
    for node in forward.nodes:
        if node.op_type == "Conv" and not node.domain and node.input[0] in pads:
            pad = pads[node.input[0]]
            amounts = _merged(forward, pad, node)
            if amounts is not None:
                gone.add(pad.output[0])
                node.input[0] = pad.input[0]
                for attribute in [a for a in node.attribute if a.name in ("pads", "auto_pad")]:
                    node.attribute.remove(attribute)
                node.attribute.append(helper.make_attribute("pads", amounts))
    forward.nodes = [node for node in forward.nodes if not (node.output and node.output[0] in gone)]


def _merged(forward: Forward, pad: NodeProto, conv: NodeProto) -> list[int] | None:
    """The pads of both together, None where the padding is not zeros around the image."""
    attributes = _attributes(pad, conv)
    amounts = forward.constant(pad.input[1]) if len(pad.input) > 1 else None
    fill = forward.constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.zeros(1)
    if amounts is None or fill is None or np.any(fill != 0) or (len(pad.input) > 3 and pad.input[3]):
        return None
    if attributes.get("mode", b"constant") != b"constant" or attributes.get("auto_pad", b"NOTSET") not in (
        b"NOTSET",
        b"VALID",
    ):
        return None
    return _sum(amounts.reshape(2, -1), attributes.get("pads"))


def _sum(amounts: Array, own: list[int] | None) -> list[int] | None:
    if amounts.min() < 0 or amounts[:, :2].any():
        return None
    spatial = amounts[:, 2:].reshape(-1)
    return [int(v) for v in (spatial if own is None else spatial + np.asarray(own))]
