"""Constants of a graph, and the operators that forward one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

PASSES = {
    *("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"),
    *("QuantizeLinear", "DequantizeLinear"),
}
"""Operators that forward a constant, at most in another form; their other inputs must be constant, too."""


NUMBERS: Mapping[str, type[np.generic]] = {"value_int": np.int64, "value_ints": np.int64}
FLOATS: Mapping[str, type[np.generic]] = {"value_float": np.float32, "value_floats": np.float32}


def constant_value(node: onnx.NodeProto, *, floats: bool = False) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node (whole numbers as well), None for other nodes and for other values.

    `floats`: floats that are an attribute's own are returned as well. They are no weights: at most one axis.
    """
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for a in node.attribute:
        if a.name == "value" and a.HasField("t"):
            tensor: onnx.TensorProto = a.t
            return tensor
        kind = NUMBERS.get(a.name) or (FLOATS.get(a.name) if floats else None)
        if kind is not None and not a.ref_attr_name:
            return onnx.numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(a), kind), node.output[0])
    return None


def fixed_constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the constants of the main graph that no caller can replace: initializers, and tensors of Constant nodes.

    Before IR 4 every initializer had to be listed as an input, so being listed means nothing there.
    """
    inputs = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    known = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in inputs}
    for node in model.graph.node:
        value = constant_value(node)
        if value is not None:
            known[node.output[0]] = value
    return known
