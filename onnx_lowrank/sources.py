"""Where a site's weight comes from: the nodes between the stored tensor and the operators that read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from onnx_lowrank.graph import GraphView, Use
from onnx_lowrank.steps import FAILURES, TYPES, attribute, read, through
from onnx_lowrank.storage import ITEMSIZES, Storage
from onnx_lowrank.types import Array, Why


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """How a weight arrives, and how its factors are to be stored.

    entries: the tensors that the operators read; where all of them are replaced, so is the weight. steps: the nodes
    that make them of the stored tensor, `constants` what else these read.
    """

    storage: Storage
    entries: tuple[str, ...]
    steps: tuple[onnx.NodeProto, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)
    opset: int = 0

    def value(self, tensor: onnx.TensorProto) -> Array:
        """Return what arrives at the operators. Raises one of FAILURES where a step cannot be computed."""
        return through(read(tensor), self.steps, self.constants, self.opset)

    def shape(self, tensor: onnx.TensorProto) -> tuple[int, ...]:
        """Return the shape in which the weight arrives. Raises one of FAILURES."""
        if not self.steps:
            return tuple(tensor.dims)
        empty = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        empty.raw_data = bytes(math.prod(tensor.dims) * ITEMSIZES[tensor.data_type])
        return tuple(self.value(empty).shape)


def source_of(view: GraphView, name: str, uses: Sequence[Use], opset: int) -> Source | tuple[Why, str]:
    """Return where a weight comes from, or why its factors cannot be stored as it is."""
    tensor, steps = view.weights[name], uses[0].steps
    if tensor.data_type not in ITEMSIZES:
        return Why.DTYPE, f"{_called(tensor.data_type)}: only float16, bfloat16, float32 and float64 are factored"
    if any(_form(use, view) != _form(uses[0], view) for use in uses[1:]):
        return Why.SHARED, "its nodes read it in different forms"
    casts = tuple(int(attribute(step, "to")) for step in steps if step.op_type == "Cast")
    odd = [elem for elem in casts if elem not in TYPES]
    if odd:
        return Why.DTYPE, f"cast to {_called(odd[0])}"
    entries = tuple(dict.fromkeys(use.node.input[use.slot] for use in uses)) if steps else (name,)
    read_too = {name for step in steps for name in step.input[1:] if name in view.weights}
    constants = {other: read(view.weights[other]) for other in read_too}
    source = Source(Storage(int(tensor.data_type), casts), entries, steps, constants, opset)
    try:
        source.shape(tensor)
    except FAILURES as error:
        return Why.OPERATOR, f"behind {steps[-1].op_type}, which cannot be computed here ({type(error).__name__})"
    return source


def _called(elem: int) -> str:
    return str(onnx.TensorProto.DataType.Name(elem)).lower()


def _form(use: Use, view: GraphView) -> list[tuple[object, ...]]:
    """Return what the steps do, whatever their names."""
    return [
        (
            step.op_type,
            [a.SerializeToString() for a in sorted(step.attribute, key=lambda a: a.name)],
            [read(view.weights[name]).tolist() if name in view.weights else name for name in step.input[1:]],
        )
        for step in use.steps
    ]
