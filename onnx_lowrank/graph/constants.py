"""Constants of a graph, and the operators that hand one on."""

from __future__ import annotations

import numpy as np
import onnx

PASSES = {
    *("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten"),
    *("QuantizeLinear", "DequantizeLinear"),
}
"""Operators that hand a constant on, in another form at most; whatever else they read must be constant, too."""


def constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node (whole numbers as well), None for other nodes and for other values."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for a in node.attribute:
        if a.name == "value" and a.HasField("t"):
            tensor: onnx.TensorProto = a.t
            return tensor
        if a.name in ("value_int", "value_ints") and not a.ref_attr_name:
            return onnx.numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(a), np.int64), node.output[0])
    return None
