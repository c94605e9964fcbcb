"""Where a site's weight comes from: the nodes between the stored tensor and the operators that read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.graph import GraphView, Use
from onnx_lowrank.grid import Grid
from onnx_lowrank.ops import Call, first_output, operator
from onnx_lowrank.steps import BFLOAT16, FAILURES, TYPES, attribute, read, through
from onnx_lowrank.storage import ITEMSIZES, Storage
from onnx_lowrank.tied import Tie, plain
from onnx_lowrank.types import Array, Why

INTEGERS = frozenset({int(onnx.TensorProto.INT8), int(onnx.TensorProto.UINT8)})
SAME_SHAPE = {"Cast", "QuantizeLinear", "DequantizeLinear"}
QUANTISED = ("int", "uint", "float8", "float4")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """How a weight arrives, and how its factors are to be stored.

    entries: the tensors that the operators read; where all of them are replaced, so is the weight. steps: the nodes
    that make them of the stored tensor, `constants` what else these read. dense: bytes of one of its own numbers, where
    they may not be those of the factors. turned: entries that hold the transpose.
    """

    storage: Storage
    entries: tuple[str, ...]
    steps: tuple[onnx.NodeProto, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    opset: int = 0
    dense: int = 0
    turned: frozenset[str] = frozenset()

    @property
    def sizes(self) -> dict[str, Any]:
        """What a Site says of how its numbers are stored."""
        grid = self.storage.grid
        return {
            "itemsize": self.storage.itemsize,
            "dense_itemsize": self.dense or self.storage.itemsize,
            "scale_bytes": self.storage.scale_bytes,
            "scale_axis": grid.axis if grid is not None else None,
        }

    def replaced(self, weight: Array) -> dict[str, Array]:
        """Return what every entry holds where another weight arrives."""
        return {name: np.ascontiguousarray(weight.T) if name in self.turned else weight for name in self.entries}

    def value(self, tensor: onnx.TensorProto) -> Array:
        """Return what arrives at the operators. Raises one of FAILURES where a step cannot be computed."""
        return through(read(tensor), self.steps, self.constants, self.opset)

    def shape(self, tensor: onnx.TensorProto) -> tuple[int, ...]:
        """Return the shape in which the weight arrives. Raises one of FAILURES."""
        steps = [step for step in self.steps if step.op_type not in SAME_SHAPE]
        if not steps:
            return tuple(tensor.dims)
        empty = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        empty.raw_data = bytes(math.prod(tensor.dims) * ITEMSIZES[tensor.data_type])
        return through(read(empty), steps, self.constants, self.opset).shape


def source_of(view: GraphView, name: str, uses: Sequence[Use], opset: int, tie: Tie) -> Source | tuple[Why, str]:
    """Return where a weight comes from, or why its factors cannot be stored as it is. Of a tied table: as looked up."""
    straight = [use for use in uses if first_output(use.node) not in tie.nodes]
    tensor, steps = view.weights[name], straight[0].steps
    forms = [_form(plain(use.steps) if tie.nodes else use.steps, view) for use in uses]
    if any(form != forms[0] for form in forms[1:]):
        return Why.SHARED, "its nodes read it in different forms"
    refusal = _unhandled(int(tensor.data_type), steps)
    if refusal:
        return refusal
    entries = tuple(dict.fromkeys(use.node.input[use.slot] for use in uses)) if steps else (name,)
    casts = tuple(int(attribute(step, "to")) for step in steps if step.op_type == "Cast")
    dequantize = next((step for step in steps if step.op_type == "DequantizeLinear"), None)
    try:
        storage, constants = Storage(int(tensor.data_type), casts), _read_by(steps, view, opset)
        turned = tie.entries.intersection(entries)
        source = Source(storage, entries, steps, constants, opset, turned=turned)
        shape = source.shape(tensor)
        if dequantize is None:
            return source
        return _quantised(source, view, tensor, dequantize, tie.call(straight[0], opset, shape))
    except FAILURES as error:
        return Why.OPERATOR, f"behind {steps[-1].op_type}, which cannot be computed here ({type(error).__name__})"


def _read_by(steps: Sequence[onnx.NodeProto], view: GraphView, opset: int) -> dict[str, Array]:
    """Return what steps read besides the weight. Raises one of FAILURES where it cannot be computed."""
    found = {}
    for name in {name for step in steps for name in step.input[1:] if name}:
        root, before = view.constant[name]
        found[name] = through(read(view.weights[root]), before, _read_by(before, view, opset), opset)
    return found


def _unhandled(elem: int, steps: Sequence[onnx.NodeProto]) -> tuple[Why, str] | None:
    """Return why numbers of this type, on this way, are not handled."""
    kinds = [step.op_type for step in steps]
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
    odd = [to for step in steps if step.op_type == "Cast" and (to := int(attribute(step, "to"))) not in TYPES]
    return (Why.DTYPE, f"cast to {_called(odd[0])}") if odd else None


def _quantised(
    source: Source, view: GraphView, tensor: onnx.TensorProto, node: onnx.NodeProto, call: Call
) -> Source | tuple[Why, str]:
    """Return a source of integers, or why its factors cannot be quantised in the same way."""
    scale = source.constants[node.input[1]]
    if attribute(node, "block_size") or scale.ndim > 1:
        return Why.QUANTISED, "scales of blocks: only one scale for all, or one for each channel, can be kept"
    if attribute(node, "output_dtype") or view.weights[view.constant[node.input[1]][0]].data_type == BFLOAT16:
        return Why.QUANTISED, "its numbers are not of the scales' own type, float or float16"
    q = through(read(tensor), source.steps[: list(source.steps).index(node)], source.constants, source.opset)
    elem, kind = (int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype)) for array in (scale, q))
    zero = source.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1, q.dtype)
    if operator(call).refuse(call, source.shape(tensor)):  # said by whoever asks about the operator
        return source
    axis = _channels(source, tensor, node, call) if scale.size > 1 else None
    if axis is not None and axis > 1:
        return Why.QUANTISED, "its scales belong neither to inputs nor to outputs"
    grid = Grid.of(q, zero, axis, TYPES[elem])
    dense = ITEMSIZES[int(tensor.data_type)]
    return replace(source, storage=replace(source.storage, elem=kind, grid=grid, scale=elem), dense=dense)


def _channels(source: Source, tensor: onnx.TensorProto, node: onnx.NodeProto, call: Call) -> int:
    """Return the axis of (out, in, *spatial) that has a scale for each of its channels; 2 where none has."""
    place = list(source.steps).index(node)
    shape = replace(source, steps=source.steps[:place]).shape(tensor)
    axis = int(1 if (given := attribute(node, "axis")) is None else given) % len(shape)
    numbers = np.arange(shape[axis], dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    later = [step for step in source.steps[place + 1 :] if step.op_type != "Cast"]
    moved = through(np.broadcast_to(numbers, shape).copy(), later, source.constants, source.opset)
    canonical = operator(call).canonical(call, moved)
    for at in range(min(canonical.ndim, 2)):
        rows = np.moveaxis(canonical, at, 0).reshape(canonical.shape[at], -1)
        if len(rows) == shape[axis] and (rows == np.arange(shape[axis])[:, None]).all():
            return at
    return 2


def _called(elem: int) -> str:
    return str(onnx.TensorProto.DataType.Name(elem)).lower()


def _form(steps: Sequence[onnx.NodeProto], view: GraphView) -> list[tuple[object, ...]]:
    """Return what the steps do, whatever their names."""
    return [
        (
            step.op_type,
            [a.SerializeToString() for a in sorted(step.attribute, key=lambda a: a.name)],
            [_value(view, name) for name in step.input[1:]],
        )
        for step in steps
    ]


def _value(view: GraphView, name: str) -> object:
    """Return a constant's numbers, so that equal ones are equal under two names; the name where it is computed."""
    return read(view.weights[name]).tolist() if name in view.weights else name
