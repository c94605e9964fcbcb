"""Where a site's weight comes from: the nodes between the stored tensor and the operators that read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.graph.view import GraphView, Use
from onnx_lowrank.ops import Call, first_output
from onnx_lowrank.types import Array, Why
from onnx_lowrank.weights.integer_grid import Grid
from onnx_lowrank.weights.storage import ITEMSIZES, Storage
from onnx_lowrank.weights.tied_embedding import TiedEmbedding, plain
from onnx_lowrank.weights.transforms import BFLOAT16, TYPES, NotComputable, apply_transforms, attribute, read

INTEGERS = frozenset({int(onnx.TensorProto.INT8), int(onnx.TensorProto.UINT8)})
SAME_SHAPE = {"Cast", "QuantizeLinear", "DequantizeLinear"}
QUANTISED = ("int", "uint", "float8", "float4")


@dataclass(frozen=True, slots=True, eq=False)
class WeightSource:
    """How a weight arrives, and how its factors are to be stored.

    entries: the tensors that the operators read; where all of them are replaced, so is the weight. transforms: the
    nodes that make them of the stored tensor, `constants` what else these read. dense: bytes of one of the weight's own
    numbers, where they may not be those of the factors. transposed: entries that hold the transpose.
    """

    storage: Storage
    entries: tuple[str, ...]
    transforms: tuple[onnx.NodeProto, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    opset: int = 0
    dense: int = 0
    transposed: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[str, Any]:
        """The fields of a Site about how its numbers are stored."""
        grid = self.storage.grid
        return {
            "itemsize": self.storage.itemsize,
            "dense_itemsize": self.dense or self.storage.itemsize,
            "scale_bytes": self.storage.scale_bytes,
            "scale_axis": grid.axis if grid is not None else None,
        }

    def replaced(self, weight: Array) -> dict[str, Array]:
        """Return what every entry holds where another weight arrives."""
        return {name: np.ascontiguousarray(weight.T) if name in self.transposed else weight for name in self.entries}

    def value(self, tensor: onnx.TensorProto) -> Array:
        """Return what arrives at the operators. Raises NotComputable where a transform cannot be computed."""
        return apply_transforms(read(tensor), self.transforms, self.constants, self.opset)

    def shape(self, tensor: onnx.TensorProto) -> tuple[int, ...]:
        """Return the shape in which the weight arrives. Raises NotComputable."""
        transforms = [transform for transform in self.transforms if transform.op_type not in SAME_SHAPE]
        if not transforms:
            return tuple(tensor.dims)
        empty = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        empty.raw_data = bytes(math.prod(tensor.dims) * ITEMSIZES[tensor.data_type])
        return apply_transforms(read(empty), transforms, self.constants, self.opset).shape


def source_of(
    view: GraphView, name: str, uses: Sequence[Use], opset: int, tie: TiedEmbedding
) -> WeightSource | tuple[Why, str]:
    """Return where a weight comes from, or why its factors cannot be stored as it is. Of a tied table: as looked up."""
    straight = [use for use in uses if first_output(use.node) not in tie.nodes]
    tensor, transforms = view.weights[name], straight[0].transforms
    forms = [_form(plain(use.transforms) if tie.nodes else use.transforms, view) for use in uses]
    if any(form != forms[0] for form in forms[1:]):
        return Why.SHARED, "its nodes read it in different forms"
    refusal = _unhandled(int(tensor.data_type), transforms)
    if refusal:
        return refusal
    entries = tuple(dict.fromkeys(use.node.input[use.slot] for use in uses)) if transforms else (name,)
    casts = tuple(int(attribute(transform, "to")) for transform in transforms if transform.op_type == "Cast")
    dequantize = next((transform for transform in transforms if transform.op_type == "DequantizeLinear"), None)
    try:
        storage, constants = Storage(int(tensor.data_type), casts), _read_by(transforms, view, opset)
        transposed = tie.entries.intersection(entries)
        source = WeightSource(storage, entries, transforms, constants, opset, transposed=transposed)
        shape = source.shape(tensor)
        if dequantize is None:
            return source
        return _quantised(source, view, tensor, dequantize, tie.call(straight[0], opset, shape))
    except NotComputable as error:
        return Why.OPERATOR, f"behind {error.op_type}, which cannot be computed here ({error})"


def _read_by(transforms: Sequence[onnx.NodeProto], view: GraphView, opset: int) -> dict[str, Array]:
    """Return what transforms read besides the weight. Raises NotComputable where one cannot be computed."""
    values = {}
    for name in {name for transform in transforms for name in transform.input[1:] if name}:
        root, before = view.constant[name]
        values[name] = apply_transforms(read(view.weights[root]), before, _read_by(before, view, opset), opset)
    return values


def _unhandled(elem: int, transforms: Sequence[onnx.NodeProto]) -> tuple[Why, str] | None:
    """Return why numbers of this type, with these nodes in between, are not handled."""
    kinds = [transform.op_type for transform in transforms]
    after = kinds[kinds.index("QuantizeLinear") + 1 :] if "QuantizeLinear" in kinds else ["DequantizeLinear"]
    if after[:1] != ["DequantizeLinear"]:
        return Why.QUANTISED, f"made of {_called(elem)} by {', '.join(kinds)}"
    if "DequantizeLinear" in kinds:
        if elem not in INTEGERS and (elem not in TYPES or "QuantizeLinear" not in kinds):
            return Why.QUANTISED, f"{_called(elem)}: only int8 and uint8 are factored and quantised again"
        if kinds.count("DequantizeLinear") > 1 or "Cast" in kinds[: kinds.index("DequantizeLinear")]:
            return Why.QUANTISED, f"made of {_called(elem)} by {', '.join(kinds)}"
    elif elem not in TYPES:
        why = Why.QUANTISED if _called(elem).startswith(QUANTISED) else Why.DTYPE
        return why, f"{_called(elem)}: only float16, bfloat16, float32 and float64 are factored"
    odd = [
        to
        for transform in transforms
        if transform.op_type == "Cast" and (to := int(attribute(transform, "to"))) not in TYPES
    ]
    return (Why.DTYPE, f"cast to {_called(odd[0])}") if odd else None


def _quantised(
    source: WeightSource, view: GraphView, tensor: onnx.TensorProto, node: onnx.NodeProto, call: Call
) -> WeightSource | tuple[Why, str]:
    """Return a source of integers, or why its factors cannot be quantised in the same way."""
    scale = source.constants[node.input[1]]
    if attribute(node, "block_size") or scale.ndim > 1:
        return Why.QUANTISED, "scales of blocks: only one scale for all, or one for each channel, can be kept"
    if attribute(node, "output_dtype") or view.weights[view.constant[node.input[1]][0]].data_type == BFLOAT16:
        return Why.QUANTISED, "its numbers are not of the scales' own type, float or float16"
    q = apply_transforms(
        read(tensor), source.transforms[: list(source.transforms).index(node)], source.constants, source.opset
    )
    elem, kind = (int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) for array in (scale, q))
    if elem not in TYPES:
        return Why.QUANTISED, f"scales of {_called(elem)}: only scales of a float type can be kept"
    zero = source.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1, q.dtype)
    if call.refuse(source.shape(tensor)):  # the operator's own refusal is reported by the caller
        return source
    axis = _channels(source, tensor, node, call) if scale.size > 1 else None
    if axis is not None and axis > 1:
        return Why.QUANTISED, "its scales belong neither to inputs nor to outputs"
    grid = Grid.of(q, zero, axis, TYPES[elem])
    dense = ITEMSIZES[int(tensor.data_type)]
    return replace(source, storage=replace(source.storage, elem=kind, grid=grid, scale=elem), dense=dense)


def _channels(source: WeightSource, tensor: onnx.TensorProto, node: onnx.NodeProto, call: Call) -> int:
    """Return the axis of (out, in, *spatial) that has a scale for each of its channels; 2 where none has."""
    place = list(source.transforms).index(node)
    shape = replace(source, transforms=source.transforms[:place]).shape(tensor)
    axis = int(1 if (declared := attribute(node, "axis")) is None else declared) % len(shape)
    if source.constants[node.input[1]].size != shape[axis]:
        return 2
    numbers = np.arange(shape[axis], dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    later = [transform for transform in source.transforms[place + 1 :] if transform.op_type != "Cast"]
    moved = apply_transforms(np.broadcast_to(numbers, shape).copy(), later, source.constants, source.opset)
    canonical = call.canonical(moved)
    for at in range(min(canonical.ndim, 2)):
        rows = np.moveaxis(canonical, at, 0).reshape(canonical.shape[at], -1)
        if len(rows) == shape[axis] and (rows == np.arange(shape[axis])[:, None]).all():
            return at
    return 2


def _called(elem: int) -> str:
    return str(onnx.TensorProto.DataType.Name(elem)).lower()


def _form(transforms: Sequence[onnx.NodeProto], view: GraphView) -> list[tuple[object, ...]]:
    """Return what the transforms do, whatever their names."""
    return [
        (
            transform.op_type,
            [a.SerializeToString() for a in sorted(transform.attribute, key=lambda a: a.name)],
            [_value(view, name) for name in transform.input[1:]],
        )
        for transform in transforms
    ]


def _value(view: GraphView, name: str) -> object:
    """Return a constant's numbers, so that equal ones are equal under two names; the name where it is computed."""
    return read(view.weights[name]).tolist() if name in view.weights else name
