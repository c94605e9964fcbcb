"""The straight-through twin of a model with quantised activations: every QuantizeLinear-DequantizeLinear is a Clip.

Rounding has no gradient, its range has: quantisers leave out a Relu whose zero is the lowest integer. So values go
through unrounded, cut to what the integers reach, and the gradient is that of the cut.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.types import Array

CLIP_OPSET = 11
"""From here on the bounds of a Clip are inputs."""


def straightened(model: ModelProto) -> ModelProto:
    """Return the twin; the model itself where no activation is quantised and dequantised."""
    pairs = _pairs(model) if _opset(model) >= CLIP_OPSET else {}
    if not pairs:
        return model
    twin = ModelProto()
    twin.CopyFrom(model)
    fresh = Fresh(all_names(model))
    for node in twin.graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in pairs:
            data, bounds = pairs[node.output[0]]
            names = [fresh(f"{node.output[0]}/{side}") for side in ("low", "high")]
            twin.graph.initializer.extend(map(numpy_helper.from_array, bounds, names))
            clip = helper.make_node("Clip", [data, *names], [node.output[0]], node.name)
            node.CopyFrom(clip)
    return twin


def _opset(model: ModelProto) -> int:
    return next((int(e.version) for e in model.opset_import if e.domain in ("", "ai.onnx")), 0)


def _pairs(model: ModelProto) -> dict[str, tuple[str, tuple[Array, Array]]]:
    """Return output of a DequantizeLinear -> what was quantised before it, and the bounds of its range."""
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        value = constant_value(node)
        if value is not None:
            constants[node.output[0]] = value
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    pairs = {}
    for node in model.graph.node:
        first = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if first is None or first.input[0] in constants or list(first.input[1:]) != list(node.input[1:]):
            continue
        if all(name in constants for name in node.input[1:]):
            bounds = _bounds(node, {name: tensor_array(constants[name]) for name in node.input[1:]})
            if bounds is not None:
                pairs[node.output[0]] = (first.input[0], bounds)
    return pairs


def _bounds(node: NodeProto, values: dict[str, Array]) -> tuple[Array, Array] | None:
    """Return the least and the largest number that the integers stand for; None where there is not one for all."""
    scale = values[node.input[1]]
    zero = values[node.input[2]] if len(node.input) > 2 and node.input[2] else np.uint8(0)
    if scale.size != 1 or zero.size != 1 or zero.dtype.kind not in "iu":
        return None
    ends = np.iinfo(zero.dtype)
    step, middle = float(scale.reshape(())), int(zero.reshape(()))
    low, high = (np.array((end - middle) * step, scale.dtype) for end in (ends.min, ends.max))
    return low, high
