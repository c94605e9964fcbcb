"""A micro-model: one node as it is, or written as a chain, on the data it really gets, with weights that are not warm.

In the whole model other weights pass through the caches between two uses of one; a node run over and over has its own
at hand. So a micro-model holds several copies of the node, each with weights of its own, together about as large as the
model's. (EfficientNet-lite0, plans at a quarter of the weights: predicted −1 % beside the measured time; +15 % with a
single copy, which also carries the whole cost of a call.) What follows the node (an activation that is fused to it) is
left out: it is the same for the node and for every chain, and only their difference enters a prediction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_lowrank.latency.capture import Captured
from onnx_lowrank.ops import Call, operator
from onnx_lowrank.types import Array, Layout, Stage

DATA = "data"
FIRST = "output0"
"""The only output that is fetched; onnxruntime computes the others all the same."""
MOST_COPIES = 16
COLD = 2**25
"""Bytes of weights that the copies need not exceed: more than the caches that a core has to itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One call and the arrays it is given: data, weight, and the rest by name; `ir` is the model's IR version."""

    call: Call
    data: Array
    weight: Array
    others: Mapping[str, Array]
    copies: int
    ir: int

    @staticmethod
    def of(call: Call, captured: Captured, *, model_bytes: int, ir: int) -> Scene:
        """Return the scene of a call in a model of `model_bytes`."""
        data, weight = operator(call).data(call), call.inputs[call.slot]
        others = {name: captured[name] for name in call.inputs if name and name not in (data, weight)}
        array = captured[weight]
        return Scene(call, captured[data], array, others, copies_of(array.nbytes, model_bytes), ir)


def copies_of(weight_bytes: int, model_bytes: int) -> int:
    """Return how many copies of a weight come to about the size of the model, or to COLD; at most MOST_COPIES."""
    return max(1, min(MOST_COPIES, -(-min(model_bytes, COLD) // max(weight_bytes, 1))))


def dense_model(scene: Scene) -> onnx.ModelProto:
    """Return copies of the node as it is."""
    nodes, tensors = [], {}
    for index in range(scene.copies):
        call = _copy(scene.call, index)
        tensors[call.inputs[call.slot]] = _other(scene.weight, index)
        attributes = {key: value for key, value in call.attributes.items() if value is not None}
        nodes.append(onnx.helper.make_node(call.op, call.inputs, [call.output], call.name, **attributes))
    return _model(scene, nodes, tensors)


def chain_model(scene: Scene, layout: Layout) -> onnx.ModelProto:
    """Return copies of the node written as a chain of this layout, of random weights."""
    op, numbers = operator(scene.call), itertools.count()
    rng = np.random.default_rng(0)
    stages = [_stage(entry, scene.weight.dtype, rng) for entry in layout]
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, Array] = {}
    for index in range(scene.copies):
        call = _copy(scene.call, index)
        named = [(stage, f"factor{index}.{place}") for place, stage in enumerate(stages)]
        written = op.write(call, named, lambda hint: f"{hint}.{next(numbers)}")
        nodes.extend(written.nodes)
        tensors |= {name: _other(op.stored(call, stage), index) for stage, name in named}
        tensors |= {name: np.asarray(array, scene.weight.dtype) for name, array in written.extra.items()}
    return _model(scene, nodes, tensors)


def _copy(call: Call, index: int) -> Call:
    """Return a copy's call: the same data and other inputs, a weight and an output of its own."""
    data = operator(call).data(call)
    inputs = [DATA if name == data else name for name in call.inputs]
    inputs[call.slot] = f"weight{index}"
    return replace(call, name=f"copy{index}", inputs=tuple(inputs), output=f"output{index}")


def _other(weight: Array, index: int) -> Array:
    """Return the same numbers in other places: of two equal weights onnxruntime keeps one, which then stays warm."""
    return np.roll(weight.reshape(-1), index).reshape(weight.shape)


def _stage(entry: Sequence[tuple[int, ...]], dtype: np.dtype[np.generic], rng: np.random.Generator) -> Stage:
    """Return a stage of a layout's entry, of numbers that keep the size of what passes through."""
    shape, *rest = entry
    scale = math.sqrt(shape[0] / max(math.prod(shape), 1))
    return Stage((rng.standard_normal(shape, np.float32) * scale).astype(dtype), *rest)


def _model(scene: Scene, nodes: Sequence[onnx.NodeProto], tensors: Mapping[str, Array]) -> onnx.ModelProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(scene.data.dtype)
    data = onnx.helper.make_tensor_value_info(DATA, kind, list(scene.data.shape))
    outputs = [onnx.helper.make_empty_tensor_value_info(f"output{index}") for index in range(scene.copies)]
    stored = {**scene.others, **tensors}
    weights = [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in stored.items()]
    graph = onnx.helper.make_graph(nodes, "micro", [data], outputs, weights)
    opset = onnx.helper.make_opsetid("", scene.call.opset)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=max(scene.ir, 4))
