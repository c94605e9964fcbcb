"""Temperature, bias and another last layer, written into a model.

Contract. Before: the nodes are in topological order. After: the logits of one output are z' = z / T + b, or those of
another last layer; where the product that makes them is a Gemm or MatMul with constants of its own, these hold other
numbers under their names, and no node is added but an Add where a MatMul has no bias; else a Mul and an Add stand
behind the logits. Inputs, outputs, their names and types, metadata, other nodes and their order are as they were. Where
anything else reads the logits, or what is made of them, nothing is written: it would change as well.

A last layer that was factored is its last factor, so what was compressed stays so. With an identity block a Concat
makes the logits: no last layer is found there, and a Mul and an Add serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.gradient import Final, final_activation
from onnx_lowrank.graph.constants import fixed_constants
from onnx_lowrank.graph.editing import with_weights
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import reads
from onnx_lowrank.metrics.class_scores import class_count
from onnx_lowrank.numerics.calibrated_logits import LogitFit
from onnx_lowrank.numerics.ridge_classifier import LayerFit
from onnx_lowrank.ops.nodes import attributes_of
from onnx_lowrank.types import Array

BROADCASTS = 7
"""The opset from which Mul, Add and Gemm broadcast without being told."""
SCOPED_IR = 4
"""From here on an initializer need not be an input as well."""
TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class LastLayer:
    """α x W + β b with constants of its own. output: the tensor that Gemm or MatMul makes; data: x.

    weight, bias: the stored tensors; no bias: an empty name. transposed: W is stored as (classes, features).
    takes_bias: whether there is a place for a bias, even if there is none yet.
    """

    output: str
    data: str
    weight: str
    transposed: bool
    bias: str = ""
    scale: float = 1.0
    bias_scale: float = 1.0
    takes_bias: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """Where an output's logits are. tensor: what goes into the softmax, or the output where there is none.

    kind: what the output holds. layer: what makes them, or why it cannot be rewritten.
    """

    output: str
    tensor: str
    kind: str
    axis: int
    layer: LastLayer | str


def find_head(model: onnx.ModelProto, output: str) -> Head | str:
    """Return where an output's logits are, or why they cannot be changed alone."""
    final = final_activation(model, output)
    if final.kind == "sigmoid":
        return f"output {output!r} comes out of a Sigmoid: its classes do not exclude each other"
    graph = _Graph.of(model)
    if final.tensor not in graph.makers:
        return f"no node of the main graph makes the logits of output {output!r}"
    if main_opset(model) < BROADCASTS:
        return f"opset {main_opset(model)}: only from {BROADCASTS} on operators broadcast by themselves"
    if why := graph.read_by_others(final.tensor, output):
        return why
    return Head(output, final.tensor, final.kind, final.axis, graph.last_layer(final))


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """The main graph: who makes and who reads a tensor, what is returned, and constants."""

    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, Sequence[onnx.NodeProto]]
    returned: frozenset[str]
    constants: Mapping[str, onnx.TensorProto]

    @staticmethod
    def of(model: onnx.ModelProto) -> _Graph:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in reads(node):
                readers.setdefault(name, []).append(node)
        makers = {name: node for node in model.graph.node for name in node.output if name}
        return _Graph(makers, readers, frozenset(v.name for v in model.graph.output), fixed_constants(model))

    def read_by_others(self, tensor: str, output: str) -> str:
        """Say what else sees a tensor, or what is made of it, on its way to an output; empty: nothing."""
        while True:
            others = list(self.readers.get(tensor, ()))
            ahead = None if tensor == output else next(iter(others), None)
            if ahead is not None:
                others = others[1:]
                if tensor in self.returned:
                    return f"the logits of output {output!r} are another output as well ({tensor!r})"
            if others:
                return f"{others[0].op_type} {others[0].name or others[0].output[0]!r} reads {tensor!r} as well"
            if ahead is None:
                return ""
            tensor = ahead.output[0]

    def last_layer(self, final: Final) -> LastLayer | str:
        """Return what makes the logits, or why it cannot be rewritten."""
        tensor = final.tensor
        while (node := self.makers.get(tensor)) is not None and node.op_type == "Identity" and not node.domain:
            tensor = node.input[0]
            if not self._alone(tensor):
                return f"{tensor!r}, which makes the logits, is read by others as well"
        if node is None or node.domain not in ("", "ai.onnx"):
            return "no Gemm or MatMul makes the logits"
        if node.op_type == "Gemm":
            return self._gemm(node)
        if node.op_type == "MatMul":
            return self._matmul(node)
        if node.op_type == "Add":
            for product, bias in (node.input, reversed(node.input)):
                maker = self.makers.get(product)
                if maker is not None and maker.op_type == "MatMul" and not maker.domain and self._alone(product):
                    layer = self._matmul(maker)
                    return layer if isinstance(layer, str) else self._biased(layer, bias)
        return f"{node.op_type} makes the logits, not Gemm or MatMul"

    def _alone(self, tensor: str) -> bool:
        """Whether a tensor has one reader, and is no output."""
        return len(self.readers.get(tensor, ())) == 1 and tensor not in self.returned

    def _constant(self, tensor: str) -> str:
        """Say why a constant cannot be rewritten; empty where it can."""
        if tensor not in self.constants:
            return f"{tensor!r} is not stored as it is read"
        if not self._alone(tensor):
            return f"{tensor!r} is read by others as well"
        kind = self.constants[tensor].data_type
        return "" if kind in TYPES else f"{tensor!r} is of type {TensorProto.DataType.Name(kind).lower()}"

    def _matmul(self, node: onnx.NodeProto) -> LastLayer | str:
        if why := self._constant(node.input[1]):
            return why
        if len(self.constants[node.input[1]].dims) != 2:
            return f"{node.input[1]!r} is no matrix"
        return LastLayer(node.output[0], node.input[0], node.input[1], transposed=False)

    def _gemm(self, node: onnx.NodeProto) -> LastLayer | str:
        known = attributes_of(node)
        alpha, beta = float(known.get("alpha", 1.0)), float(known.get("beta", 1.0))
        if known.get("transA", 0) or not alpha or not beta:
            return "Gemm with transA, or with a factor of 0, makes the logits"
        if why := self._constant(node.input[1]):
            return why
        layer = LastLayer(
            *(node.output[0], node.input[0], node.input[1], bool(known.get("transB", 0))),
            scale=alpha,
            bias_scale=beta,
            takes_bias=True,
        )
        return self._biased(layer, node.input[2]) if len(node.input) > 2 and node.input[2] else layer

    def _biased(self, layer: LastLayer, bias: str) -> LastLayer | str:
        """Return the layer with its bias: one number a class, or one for all."""
        if why := self._constant(bias):
            return why
        classes = self.constants[layer.weight].dims[0 if layer.transposed else 1]
        *rows, last = self.constants[bias].dims or [1]
        if last not in (1, classes) or any(size != 1 for size in rows):
            return f"{bias!r} is not one number a class"
        return replace(layer, bias=bias, takes_bias=True)


def with_logits(model: onnx.ModelProto, head: Head, fit: LogitFit, like: Array) -> onnx.ModelProto | str:
    """Return a copy whose logits are z / T + b, or why there is none. like: the logits of some samples as they are."""
    layer = head.layer
    last = axis_of_classes(like) == like.ndim - 1
    if isinstance(layer, LastLayer) and last and (fit.bias is None or layer.takes_bias):
        classes = class_count(like)
        return with_layer(model, layer, LayerFit(np.zeros((classes, 1)), _bias(fit, classes), 1 / fit.temperature))
    behind = _Behind.of(model, head, like.dtype)
    if isinstance(layer, LastLayer) and last and fit.bias is not None:  # a MatMul without bias takes the scale
        scaled = with_layer(model, layer, LayerFit(np.zeros((len(fit.bias), 1)), 0 * fit.bias, 1 / fit.temperature))
        if isinstance(scaled, str):
            return scaled
        behind = _Behind.of(scaled, head, like.dtype)
    elif fit.temperature != 1:
        behind.put("Mul", np.array(1 / fit.temperature))
    if fit.bias is not None:
        behind.put("Add", fit.bias.reshape(-1, *[1] * (like.ndim - 1 - axis_of_classes(like))))
    return behind.model if behind.finite else f"the numbers do not fit into {like.dtype}"


def axis_of_classes(like: Array) -> int:
    """Return where classes are read, from 0: the last axis, 1 of four axes and more (`metrics.class_scores`)."""
    return 1 if like.ndim >= 4 else max(like.ndim - 1, 0)


def with_layer(model: onnx.ModelProto, layer: LastLayer, fit: LayerFit) -> onnx.ModelProto | str:
    """Return a copy with another last layer, `fit.layer` times what it was and what is fitted, or why not."""
    stored = fixed_constants(model)
    old = tensor_array(stored[layer.weight])
    step = fit.weight / layer.scale
    weights = {layer.weight: _cast(fit.layer * old.astype(np.float64) + (step if layer.transposed else step.T), old)}
    bias = fit.bias / layer.bias_scale
    if layer.bias:
        before = tensor_array(stored[layer.bias])
        if fit.bias.any() and before.shape[-1:] != bias.shape:
            before = np.broadcast_to(before.reshape(-1), bias.shape)  # one number for all classes
        weights[layer.bias] = _cast(fit.layer * before.astype(np.float64) + (bias if fit.bias.any() else 0), before)
    if not all(np.isfinite(array).all() for array in weights.values()):
        return f"the numbers do not fit into {old.dtype}"
    copy = with_weights(model, weights)
    if fit.bias.any() and not layer.bias:
        node = next(n for n in copy.graph.node if layer.output in n.output)
        name = Fresh(all_names(copy))(f"{layer.weight}.bias")
        _store(copy, name, _cast(bias, old))
        del node.input[2:]
        node.input.append(name)
    return copy


def _bias(fit: LogitFit, classes: int) -> Array:
    return np.zeros(classes) if fit.bias is None else fit.bias


def _cast(array: Array, like: Array) -> Array:
    with np.errstate(over="ignore"):  # seen as not finite
        return array.astype(like.dtype)


def _store(model: onnx.ModelProto, name: str, array: Array) -> None:
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    if model.ir_version < SCOPED_IR:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))


@dataclass(slots=True, eq=False)
class _Behind:
    """A copy of a model that gets nodes behind the logits, one after the other."""

    model: onnx.ModelProto
    head: Head
    dtype: np.dtype[np.generic]
    place: int
    names: Fresh
    finite: bool = True

    @staticmethod
    def of(model: onnx.ModelProto, head: Head, dtype: np.dtype[np.generic]) -> _Behind:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        place = next(i for i, node in enumerate(copy.graph.node) if head.tensor in node.output)
        return _Behind(copy, head, dtype, place, Fresh(all_names(copy)))

    def put(self, kind: str, constant: Array) -> None:
        """Put a node behind the one that makes the logits; what it makes has their name."""
        maker, tensor = self.model.graph.node[self.place], self.head.tensor
        before = self.names(f"{tensor}.before_{kind.lower()}")
        maker.output[list(maker.output).index(tensor)] = before
        array = _cast(constant, np.empty(0, self.dtype))
        self.finite = self.finite and bool(np.isfinite(array).all())
        name = self.names(f"{tensor}.{kind.lower()}")
        _store(self.model, name, array)
        self.place += 1
        self.model.graph.node.insert(self.place, helper.make_node(kind, [before, name], [tensor], name))
