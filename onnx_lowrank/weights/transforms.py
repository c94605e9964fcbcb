"""What a stored weight becomes on its way to the operator: Cast, Transpose, Reshape and the like, DequantizeLinear.

bfloat16 is stored as float32 with the values that bfloat16 has: numpy has no such type of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.types import Array

BFLOAT16 = int(onnx.TensorProto.BFLOAT16)
TYPES: Mapping[int, type[Any]] = {
    int(onnx.TensorProto.FLOAT): np.float32,
    int(onnx.TensorProto.DOUBLE): np.float64,
    int(onnx.TensorProto.FLOAT16): np.float16,
    BFLOAT16: np.float32,
}
"""Element type of floats -> the numpy type that holds their values."""
EVALUATOR_ERRORS = (ValueError, TypeError, RuntimeError, AttributeError, IndexError, KeyError)
"""What onnx's reference evaluator raises for a node that it cannot compute: caught around the call into it alone."""


class NotComputable(Exception):  # noqa: N818 - an answer, not an error: the weight behind the node stays as it is
    """A node between a stored tensor and its operator cannot be computed here; the text says why, in a few words."""

    def __init__(self, node: onnx.NodeProto, why: str) -> None:
        super().__init__(why)
        self.op_type = node.op_type


def read(tensor: onnx.TensorProto) -> Array:
    """Return a tensor's values."""
    array = tensor_array(tensor)
    return array.astype(np.float32) if tensor.data_type == BFLOAT16 else array


def as_type(array: Array, elem: int) -> Array:
    """Return the values as a float type holds them; what is beyond its range becomes infinite."""
    with np.errstate(over="ignore"):
        return _as_bfloat16(array) if elem == BFLOAT16 else array.astype(TYPES[elem])


def tensor_of(array: Array, elem: int, name: str) -> onnx.TensorProto:
    """Return a tensor of an element type; the values are rounded to it where it is a float type."""
    if elem != BFLOAT16:
        values = as_type(array, elem) if elem in TYPES else array
        whole = np.ascontiguousarray(values).reshape(array.shape)  # it makes a vector of a scalar
        return onnx.numpy_helper.from_array(whole, name)
    bits = (np.ascontiguousarray(_as_bfloat16(array)).view(np.uint32) >> 16).astype("<u2")
    return onnx.helper.make_tensor(name, elem, array.shape, bits.tobytes(), raw=True)


def _as_bfloat16(array: Array) -> Array:
    """Return float32 with the lower half of every number rounded away, to the nearest even."""
    single = np.ascontiguousarray(array, np.float32)
    bits = single.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isfinite(single), rounded, single).reshape(array.shape).astype(np.float32)


def attribute(node: onnx.NodeProto, name: str) -> Any:
    """Return a node's attribute, None where it is left out."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def apply_transforms(
    array: Array, transforms: Sequence[onnx.NodeProto], constants: Mapping[str, Array], opset: int
) -> Array:
    """Return the array after these nodes, applied in order. Raises NotComputable where one cannot be computed."""
    for node in transforms:
        if node.op_type == "Cast":
            array = _cast(array, node)
        elif node.op_type == "QuantizeLinear":
            array = _quantised(array, node, constants)
        elif node.op_type == "DequantizeLinear":
            array = _dequantised(array, node, constants)
        else:
            array = _computed(array, node, constants, opset)
    return array


def _cast(array: Array, node: onnx.NodeProto) -> Array:
    elem = attribute(node, "to")
    if elem not in TYPES:
        raise NotComputable(node, "a cast to what is no float")
    return as_type(array, elem)


def _scales(node: onnx.NodeProto, constants: Mapping[str, Array], shape: Sequence[int]) -> tuple[Array, Array]:
    """Return scale and zero point of a node, ready to be broadcast; uint8 where there is no zero point."""
    scale = constants[node.input[1]]
    if attribute(node, "block_size") or attribute(node, "output_dtype") or scale.ndim > 1:
        raise NotComputable(node, "scales of blocks, or a type of its own")
    has_zero = len(node.input) > 2 and node.input[2]
    zero = constants[node.input[2]] if has_zero else np.zeros(scale.shape, np.uint8)
    along: list[int] | None
    if scale.size == 1:
        along = [] if zero.size == 1 else None
    else:
        along = _along(scale.size, attribute(node, "axis"), shape) if zero.size in (1, scale.size) else None
    if along is None:
        raise NotComputable(node, "scales, zero points and numbers do not go together")
    return scale.reshape(along), zero.reshape(along)


def _along(count: int, axis: int | None, shape: Sequence[int]) -> list[int] | None:
    """Return the shape of one number for each place on an axis (1 by default), None where there are not `count`."""
    at = (1 if axis is None else axis) % len(shape) if shape else 0
    return [-1 if i == at else 1 for i in range(len(shape))] if shape and shape[at] == count else None


def _quantised(array: Array, node: onnx.NodeProto, constants: Mapping[str, Array]) -> Array:
    """Return round(x / scale) + zero, cut to the zero point's type."""
    scale, zero = _scales(node, constants, array.shape)
    if zero.dtype not in (np.int8, np.uint8):
        raise NotComputable(node, f"numbers of {zero.dtype}")
    ends = np.iinfo(zero.dtype)
    with np.errstate(all="ignore"):  # `unsuitable.not_finite` checks whether the weight is finite
        return np.asarray(np.clip(np.rint(array / scale) + zero, ends.min, ends.max), zero.dtype)


def _dequantised(q: Array, node: onnx.NodeProto, constants: Mapping[str, Array]) -> Array:
    """Return scale · (q − zero); the reference evaluator knows the operator from opset 19 on only."""
    scale, zero = _scales(node, constants, q.shape)
    wide = np.float64 if scale.dtype == np.float64 else np.float32  # a product of 9 and 24 bits is rounded once
    with np.errstate(all="ignore"):  # as in `_quantised`
        return np.asarray((q.astype(wide) - zero.astype(wide)) * scale.astype(wide), scale.dtype)


def _computed(array: Array, node: onnx.NodeProto, constants: Mapping[str, Array], opset: int) -> Array:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    names = ["given", *node.input[1:]]
    copy.input[0] = names[0]
    infos = [onnx.helper.make_empty_tensor_value_info(name) for name in (*dict.fromkeys(filter(None, names)), "made")]
    copy.output[0] = "made"
    graph = onnx.helper.make_graph([copy], "step", infos[:-1], infos[-1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feed = {"given": array, **{name: constants[name] for name in names[1:] if name}}
    try:
        (result,) = ReferenceEvaluator(model).run(None, feed)
    except EVALUATOR_ERRORS as error:
        raise NotComputable(node, type(error).__name__) from error
    return np.asarray(result)
