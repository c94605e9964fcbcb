"""Local functions that hold factorable weights, or get them as inputs, are inlined: only the graph itself is rewritten.

The rest of the file stays as it is. A function that holds a large weight and is called several times is left alone:
inlined, the weight would be stored as often.
"""

from __future__ import annotations

from typing import TypeAlias

import onnx
import onnx.inliner

from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.large import fits_protobuf
from onnx_lowrank.graph.traversal import Function, function_calls
from onnx_lowrank.graph.view import read_graph
from onnx_lowrank.ops import by_type
from onnx_lowrank.weights.transforms import TYPES

SMALL = 1024
"""Elements up to which a constant may be stored several times."""
Bodies: TypeAlias = dict[Function, onnx.FunctionProto]


def inlined(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the model with such functions inlined, and their names; the model itself where there are none."""
    names: list[str] = []
    while model.functions and fits_protobuf(model):
        chosen = _chosen(model)
        if not chosen:
            break
        try:
            model = onnx.inliner.inline_selected_functions(model, chosen)
        except RuntimeError:  # another operator set than the model's: it keeps its meaning only where it is
            break
        names.extend(name for _, name in chosen)
    return model, tuple(dict.fromkeys(names))


def _chosen(model: onnx.ModelProto) -> list[Function]:
    bodies = {(function.domain, function.name): function for function in model.functions}
    calls = function_calls(model)
    uses = read_graph(model)
    fed_large = {
        (use.node.domain, use.node.op_type)
        for name, where in uses.uses.items()
        for use in where
        if _is_large(uses.weights[name], 0)
    }
    chosen = []
    for key in bodies:
        holds = any(_is_large(tensor, 0) for tensor in _held(key, bodies))
        again = calls[key] > 1 and any(_is_large(tensor, SMALL) for tensor in _held(key, bodies))
        if calls[key] and (holds or key in fed_large) and not again and _factors(key, bodies):
            chosen.append(key)
    return chosen


def _is_large(tensor: onnx.TensorProto, least: int) -> bool:
    count = 1
    for size in tensor.dims:
        count *= size
    return tensor.data_type in TYPES and len(tensor.dims) > 1 and count > least


def _held(key: Function, bodies: Bodies) -> list[onnx.TensorProto]:
    """Return the constants in a function and in those that it calls."""
    constants = []
    for node in bodies[key].node:
        value = constant_value(node)
        constants.extend([value] if value is not None else [])
        if (node.domain, node.op_type) in bodies:
            constants.extend(_held((node.domain, node.op_type), bodies))
    return constants


def _factors(key: Function, bodies: Bodies) -> bool:
    """Whether an operator in a function, or in one that it calls, has weights that can be factored."""
    return any(
        (node.domain in ("", "ai.onnx") and by_type(node.op_type) is not None)
        or ((node.domain, node.op_type) in bodies and _factors((node.domain, node.op_type), bodies))
        for node in bodies[key].node
    )
