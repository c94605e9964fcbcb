"""Small constants that nodes compute: exporters write pads and axes as Concat, Cast, Transpose, … of stored numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.graph.clean_up import leading_to
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.types import Array

FOLDS = frozenset(
    {
        *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Flatten", "Gather", "Identity", "Mul", "Neg"),
        *("Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    }
)
"""Operators that are computed here: none has a state, and none is large where what it reads is small."""
SMALL = 1024
"""Elements up to which a stored tensor is among what is computed."""


def folded(model: onnx.ModelProto, stored: Mapping[str, onnx.TensorProto], name: str) -> Array | None:
    """Return the numbers of a tensor that small stored ones give by nodes of FOLDS alone, None of any other.

    stored: name -> initializer or Constant node's tensor.
    """
    if name in stored:
        return tensor_array(stored[name])
    nodes = leading_to(model.graph.node, [name])
    made = {output for node in nodes for output in node.output}
    read = {source for node in nodes for source in reads(node)} - made
    if name not in made or any(node.op_type not in FOLDS or node.domain not in ("", "ai.onnx") for node in nodes):
        return None
    if any(source not in stored or math.prod(stored[source].dims) > SMALL for source in read):
        return None
    graph = onnx.helper.make_graph(
        nodes, "folded", [], [onnx.helper.make_empty_tensor_value_info(name)], [stored[source] for source in read]
    )
    small = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))
    (value,) = ReferenceEvaluator(small).run(None, {})
    return np.asarray(value)
