"""Operators that multiply integers: what their weights are multiplied by is rounded to 8 bits, too.

Contract. Before: a DequantizeLinear makes each of the weights out of symmetric integers, a scale for every output, and
the model is in an opset that has what is written here. After: a convolution reads and gives tensors that went through
QuantizeLinear and DequantizeLinear, in ranges that were seen on samples, its bias is of integers, and onnxruntime makes
one operator of all that; where a Relu or Clip follows, what is rounded is its output. A MatMul or Gemm is
DynamicQuantizeLinear, MatMulInteger and the product of the scales, its range found at every call. A tensor is rounded
once, whoever reads it. Names, inputs and outputs stay. An operator of which that cannot be made (a bias that is
computed, a range that is not finite) reads its weight as it did, unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.graph.constants import fixed_constants
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import readers_of, reads
from onnx_lowrank.ops.nodes import attributes_of
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.activation_ranges import ranges
from onnx_lowrank.passes.taken_in import bias_of, take_in
from onnx_lowrank.passes.unpack import raised
from onnx_lowrank.runtime.runner import Runner, runs_on_cpu
from onnx_lowrank.types import Activations, Array, Feed, NumberFormat

LARGEST = 255
"""The largest integer that an activation becomes; the smallest is 0."""
BIAS = 2**30
"""No integer of a bias is larger: a scale that would make it so is enlarged, that of a dead channel chosen so."""
LIMIT = 2**31 - 1
WIDTH, LARGEST_OFF = 64, 0.02
"""Of the operator that is tried; what it may be off is more than the rounding of equal numbers."""
FOLDED = ("Relu", "Clip")
"""What a convolution in integers does by itself: it ends a range."""


def in_integers(
    model: onnx.ModelProto, weights: Mapping[str, Activations], samples: Sequence[Feed], runtime: Runtime
) -> onnx.ModelProto:
    """Return the model, changed in place; weights: tensors that operators read -> how their activations are rounded.

    Raises RuntimeProblem where the model does not run on the samples.
    """
    take_in(model, [name for name, activations in weights.items() if activations == "static"])
    work = _Work(model, weights)
    convolutions = [_Convolution(node, work.end(node)) for node in model.graph.node if work.static(node)]
    if convolutions:
        tensors = dict.fromkeys(name for each in convolutions for name in (each.read, each.given))
        work.convolve(convolutions, ranges(model, list(tensors), samples, runtime))
    for node in model.graph.node:
        if work.dynamic(node):
            work.multiply(node)
    work.finish()
    return model


def refused_arithmetic(model: onnx.ModelProto, number: NumberFormat, runtime: Runtime) -> str:
    """Return why integers of a format are not multiplied here, "" where they are: found out by running one operator.

    model: what is to be raised to an opset that has these operators.

    Its numbers are the largest there are, which processors without the right instructions add up wrongly.
    """
    if not runs_on_cpu(runtime.provider):
        return f"operators in integers are the CPU's, and provider {runtime.provider!r} would run them in float"
    static, value = number.activations == "static", onnx.helper.make_tensor_value_info
    shape, one = ([1, WIDTH, 1, 1], [1, 1]) if static else ([1, WIDTH], [])
    node = onnx.helper.make_node("Conv" if static else "MatMul", ["x", "w"], ["y"])
    tensors = [
        onnx.numpy_helper.from_array(np.full((WIDTH, WIDTH, *one), number.high, np.int8), "q"),
        onnx.numpy_helper.from_array(np.full(WIDTH, 1 / number.high, np.float32), "s"),
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0 if static else 1), node],
        number.name,
        [value("x", onnx.TensorProto.FLOAT, shape)],
        [value("y", onnx.TensorProto.FLOAT, None)],
        tensors,
    )
    tried = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", number.opset)], ir_version=8)
    feed = {"x": np.ones(shape, np.float32)}
    try:
        raised(model, number.opset)
        found = Runner(in_integers(tried, {"w": number.activations}, [feed], runtime), runtime=runtime).run(feed)["y"]
    except (ModelError, RuntimeProblem) as error:
        return str(error)
    off = float(np.abs(found / WIDTH - 1).max())
    return f"this processor adds products of 8 bits up wrongly ({off:.0%} off)" if off > LARGEST_OFF else ""


@dataclass(frozen=True, slots=True)
class _Rounding:
    """The names of a tensor's scale and zero point, and the scale."""

    scale: str
    zero: str
    step: float


@dataclass(frozen=True, slots=True, eq=False)
class _Convolution:
    """A convolution, and the node whose output is rounded: itself, or what it does besides."""

    node: onnx.NodeProto
    end: onnx.NodeProto

    @property
    def read(self) -> str:
        return str(self.node.input[0])

    @property
    def given(self) -> str:
        return str(self.end.output[0])


@dataclass(eq=False)
class _Work:
    """What is written for a model.

    first, after, instead: nodes at the beginning, behind the one that gives a tensor, in the place of the one that did.
    made: new tensors. spare: stored ones that go if nothing reads them any more. rounded: tensor -> its integers, scale
    and zero point, found at every call.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Activations]
    first: list[onnx.NodeProto] = field(default_factory=list)
    after: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    instead: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    made: dict[str, Array] = field(default_factory=dict)
    spare: set[str] = field(default_factory=set)
    rounded: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = self.model.graph
        self.fresh = Fresh(all_names(self.model))
        self.constants = fixed_constants(self.model)
        self.outputs = {value.name for value in self.graph.output}
        self.unpacking = {n.output[0]: n for n in self.graph.node if n.output and n.output[0] in self.weights}
        self.spare.update(name for node in self.unpacking.values() for name in node.input)
        self.readers = readers_of(self.graph)

    def static(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is a convolution that can have static ranges."""
        if node.op_type != "Conv" or self.weights.get(node.input[1]) != "static":
            return False
        return not bias_of(node) or bias_of(node) in self.constants

    def dynamic(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is a product whose range can be found at every call."""
        if node.op_type not in ("MatMul", "Gemm") or self.weights.get(node.input[1]) != "dynamic":
            return False
        attributes = attributes_of(node)
        plain = attributes.get("beta", 1.0) == 1 or bias_of(node) in self.constants
        return not attributes.get("transA", 0) and (not bias_of(node) or plain)

    def end(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return the node whose output is rounded, of a convolution or a sum."""
        readers = self.readers.get(node.output[0], [])
        if len(readers) != 1 or node.output[0] in self.outputs or readers[0].op_type not in FOLDED:
            return node
        bounds = [name for name in readers[0].input[1:] if name]
        return readers[0] if all(name in self.constants for name in bounds) else node

    def convolve(self, convolutions: Sequence[_Convolution], found: Mapping[str, tuple[float, float]]) -> None:
        """Round what convolutions read and give, and their bias, where the ranges are known."""
        possible = [each for each in convolutions if each.read in found and each.given in found]
        given = {each.given: each.end for each in possible}
        read = dict[str, str]()
        steps = dict[str, float]()
        for tensor in dict.fromkeys(name for each in possible for name in (each.read, each.given)):
            rounding = self._rounding(tensor, *found[tensor])
            steps[tensor] = rounding.step
            if tensor in given:
                inner = self.fresh(f"{tensor}.float")
                given[tensor].output[0] = inner
                self.after[inner] = self._pair(inner, tensor, rounding)
                continue
            read[tensor] = self.fresh(f"{tensor}.rounded")
            made = any(tensor in node.output for node in self.graph.node)
            (self.after.setdefault(tensor, []) if made else self.first).extend(
                self._pair(tensor, read[tensor], rounding)
            )
        for each in possible:
            self._widen(each.node, steps[each.read])
        for each in possible:
            self._round_bias(each.node, steps[each.read])
            each.node.input[0] = read.get(each.read, each.read)
        for (
            node
        ) in self.graph.node:  # a sum of what is rounded for others as well, to be rounded again: all in integers
            if node.op_type == "Add" and steps.keys() >= {*node.input, self.end(node).output[0]}:
                node.input[:] = [read.get(name, name) for name in node.input]

    def _rounding(self, tensor: str, low: float, high: float) -> _Rounding:
        step = float(np.float32((high - low) / LARGEST)) or 1.0
        zero = np.uint8(np.clip(np.rint(-low / step), 0, LARGEST))
        names = self.fresh(f"{tensor}.scale"), self.fresh(f"{tensor}.zero")
        self.made |= {names[0]: np.array(step, np.float32), names[1]: np.array(zero)}
        return _Rounding(*names, step)

    def _pair(self, inner: str, outer: str, rounding: _Rounding) -> list[onnx.NodeProto]:
        integers, make = self.fresh(f"{outer}.integers"), onnx.helper.make_node
        return [
            make("QuantizeLinear", [inner, rounding.scale, rounding.zero], [integers], integers),
            make("DequantizeLinear", [integers, rounding.scale, rounding.zero], [outer], self.fresh(f"{outer}.read")),
        ]

    def _widen(self, node: onnx.NodeProto, step: float) -> None:
        """Give a weight scales for which no bias is too large an integer; those of a dead channel serve its bias."""
        if not bias_of(node):
            return
        names = self.unpacking[node.input[1]].input
        q, scale = self._known(names[0]), self._known(names[1])
        bias = np.abs(tensor_array(self.constants[bias_of(node)]).astype(np.float64))
        least = (bias / (BIAS * step)).astype(np.float32)
        least = np.where(least > 0, np.maximum(least, np.finfo(np.float32).tiny), 0)
        dead = ~q.reshape(len(q), -1).any(axis=1) & (least > 0)
        chosen = scale if names[1] in self.made else np.zeros_like(scale)  # by another bias of the same weight
        wide = np.where(dead, np.maximum(chosen, least), np.maximum(scale, least))
        if (wide != scale).any():
            share = np.where(dead, 0, scale / wide).reshape(-1, *(1,) * (q.ndim - 1))
            smaller = np.rint(q * share).astype(np.int8)
            self.made |= {names[0]: smaller, names[1]: wide}

    def _round_bias(self, node: onnx.NodeProto, step: float) -> None:
        """Make a convolution's bias integers, of the product of the scales."""
        name = bias_of(node)
        if not name:
            return
        bias = tensor_array(self.constants[name]).astype(np.float64)
        scale = self._known(self.unpacking[node.input[1]].input[1])
        product = np.maximum((scale * step).astype(np.float32), np.finfo(np.float32).tiny)
        names = [self.fresh(f"{name}.{what}") for what in ("int32", "scale", "read")]
        self.made |= {names[0]: np.rint(bias / product).clip(-LIMIT, LIMIT).astype(np.int32), names[1]: product}
        self.first.append(onnx.helper.make_node("DequantizeLinear", names[:2], [names[2]], names[2], axis=0))
        self.spare.add(name)
        node.input[2] = names[2]

    def _known(self, name: str) -> Array:
        known = self.made.get(name)
        return tensor_array(self.constants[name]) if known is None else known

    def multiply(self, node: onnx.NodeProto) -> None:
        """Write a product of integers in the place of a MatMul or Gemm."""
        out, nodes, make = node.output[0], list[onnx.NodeProto](), onnx.helper.make_node
        if node.input[0] not in self.rounded:
            names = [self.fresh(f"{node.input[0]}.{what}") for what in ("integers", "step", "middle")]
            nodes.append(make("DynamicQuantizeLinear", [node.input[0]], names, names[0]))
            self.rounded[node.input[0]] = names
        q, step, zero = self.rounded[node.input[0]]
        weight, scales = self._operands(node)
        whole, single, both = (self.fresh(f"{out}.{what}") for what in ("int32", "single", "scale"))
        bias = self._added(node)
        product = self.fresh(f"{out}.product") if bias else out
        nodes += [
            make("MatMulInteger", [q, weight, zero], [whole], whole),
            make("Cast", [whole], [single], single, to=onnx.TensorProto.FLOAT),
            make("Mul", [step, scales], [both], both),
            make("Mul", [single, both], [product], product if bias else node.name),
        ]
        if bias:
            nodes.append(make("Add", [product, bias], [out], node.name))
        nodes[-1].doc_string = node.doc_string
        self.instead[out] = nodes

    def _operands(self, node: onnx.NodeProto) -> tuple[str, str]:
        """Return the integers (in, out) and the scales of a product's weight, transpositions and alpha included."""
        weight, scales = self.unpacking[node.input[1]].input[:2]
        alpha = float(attributes_of(node).get("alpha", 1.0))
        if attributes_of(node).get("transB", 0):
            turned = f"{weight}.turned"
            self.made[turned] = self._known(weight).T
            weight = turned
        if alpha != 1:
            scaled = self.fresh(f"{scales}.scaled")
            self.made[scaled] = self._known(scales) * np.float32(alpha)
            scales = scaled
        return weight, scales

    def _added(self, node: onnx.NodeProto) -> str:
        """Return what a product adds: its bias, beta included; "" for none."""
        bias, beta = bias_of(node), float(attributes_of(node).get("beta", 1.0))
        if not bias or beta == 1:
            return bias
        scaled = self.fresh(f"{bias}.scaled")
        self.made[scaled] = tensor_array(self.constants[bias]) * np.float32(beta)
        self.spare.add(bias)
        return scaled

    def finish(self) -> None:
        """Write the nodes in their order and store the tensors; what nothing reads any more goes."""
        nodes = list(self.first)
        for node in self.graph.node:
            for written in self.instead.get(node.output[0], [node]) if node.output else [node]:
                nodes.append(written)
                for name in written.output:
                    nodes.extend(self.after.get(name, ()))
        read = self.outputs.union(*map(reads, nodes))
        idle = {name for name in self.unpacking if name not in read}
        nodes = [node for node in nodes if not (node.output and node.output[0] in idle)]
        read = self.outputs.union(*map(reads, nodes))
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        kept = [
            onnx.TensorProto.FromString(tensor.SerializeToString())
            for tensor in self.graph.initializer
            if tensor.name not in self.made and (tensor.name in read or tensor.name not in self.spare)
        ]
        kept += [
            onnx.numpy_helper.from_array(np.array(array, order="C"), name)
            for name, array in self.made.items()
            if name in read
        ]
        for entries, new in ((self.graph.node, copies), (self.graph.initializer, kept)):
            del entries[:]
            entries.extend(new)
