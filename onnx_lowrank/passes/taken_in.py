"""What stands around a convolution and can be part of it: zeros that pad its input, factors and terms of its channels.

Contract. Before: each weight is unpacked from integers with a scale for every output by a DequantizeLinear, and read by
one convolution. After: a Pad of zeros before it is in its pads; a BatchNormalization, and a product or sum with
constants of its channels, behind it are in its scales and its bias. Outputs keep their names, and are what they were up
to the rounding of floats. onnxruntime does that to weights in float alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnx_lowrank.graph.clean_up import leading_to
from onnx_lowrank.graph.constants import fixed_constants
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.traversal import readers_of, reads
from onnx_lowrank.ops.nodes import attributes_of
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array

CPU = Runtime(provider="cpu", threads=1)


def take_in(model: onnx.ModelProto, weights: Collection[str]) -> None:
    """Change a model in place; weights: the tensors that convolutions read, unpacked from integers."""
    work = _Work(model)
    for node in [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights]:
        work.pad(node)
        if len(work.readers[node.input[1]]) == 1:
            while work.follow(node):
                pass
    work.finish()


@dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """y · factor + term, a number for every channel."""

    factor: Array
    term: Array


@dataclass(eq=False)
class _Work:
    """gone: nodes that are taken in. made: tensors to store, new ones or in the place of others.

    replaced: biases in whose place others are.
    """

    model: onnx.ModelProto
    gone: list[onnx.NodeProto] = field(default_factory=list)
    made: dict[str, Array] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.fresh, self.constants = Fresh(all_names(self.model)), fixed_constants(self.model)
        pads = {name for node in graph.node if node.op_type == "Pad" for name in node.input[1:] if name}
        self.constants |= _computed(self.model, pads - set(self.constants))
        self.outputs = {value.name for value in graph.output}
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers = readers_of(graph)

    def value(self, name: str) -> Array:
        """Return a constant as it is by now."""
        return self.made[name] if name in self.made else tensor_array(self.constants[name])

    def pad(self, node: onnx.NodeProto) -> None:
        """Take a Pad of zeros in front of a convolution into its pads."""
        before, attributes = self.producers.get(node.input[0]), attributes_of(node)
        axes = len(self.constants[self.producers[node.input[1]].input[0]].dims) - 2
        if before is None or before.op_type != "Pad" or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            return
        more = self._zeros(before, axes)
        if more is None:
            return
        own = attributes.get("pads", [0] * (2 * axes))
        for attribute in [a for a in node.attribute if a.name == "pads"]:
            node.attribute.remove(attribute)
        node.attribute.append(onnx.helper.make_attribute("pads", [int(a + b) for a, b in zip(own, more, strict=True)]))
        self.readers[node.input[0]].remove(node)
        if not self.readers[node.input[0]] and before.output[0] not in self.outputs:
            self.gone.append(before)
        self.readers.setdefault(before.input[0], []).append(node)
        node.input[0] = before.input[0]

    def _zeros(self, node: onnx.NodeProto, axes: int) -> list[int] | None:
        """Return how many zeros a Pad adds before and after each spatial axis; None where it does something else."""
        given = [name for name in node.input[1:] if name]
        if attributes_of(node).get("mode", b"constant") != b"constant" or len(node.input) > 3:
            return None
        if not given or any(name not in self.constants for name in given):
            return None
        pads = self.value(given[0]).reshape(-1).tolist()
        value = self.value(given[1]) if len(given) > 1 else np.zeros(1)
        first, last = pads[: axes + 2], pads[axes + 2 :]
        if len(pads) != 2 * (axes + 2) or value.any() or any(first[:2]) or any(last[:2]) or min(pads) < 0:
            return None
        return [*first[2:], *last[2:]]

    def follow(self, node: onnx.NodeProto) -> bool:
        """Take the one node that reads a convolution's output in, where it works on channels; return whether it did."""
        output, bias = node.output[0], bias_of(node)
        readers = self.readers.get(output, [])
        if len(readers) != 1 or output in self.outputs or (bias and bias not in self.constants):
            return False
        names = self.producers[node.input[1]].input
        q, scale = self.value(names[0]), self.value(names[1]).astype(np.float64)
        affine = self._affine(readers[0], output, len(q), q.ndim)
        if affine is None:
            return False
        made = scale * np.abs(affine.factor)
        dead = made < np.finfo(np.float32).tiny
        sign = np.where(dead, 0, np.sign(affine.factor)).reshape(-1, *(1,) * (q.ndim - 1))
        self.made[names[0]] = (q * sign).astype(q.dtype)
        self.made[names[1]] = np.where(dead, 1.0, made).astype(np.float32)
        term = (self.value(bias).astype(np.float64) if bias else 0.0) * affine.factor + affine.term
        name = self.fresh(f"{node.input[1]}.bias")
        self.made[name] = term.astype(np.float32)
        self.constants[name] = onnx.TensorProto()  # its value is among those made
        if len(node.input) < 3:
            node.input.append(name)
        node.input[2] = name
        self.gone.append(readers[0])
        self.replaced.add(bias)
        node.output[0] = readers[0].output[0]
        self.producers[node.output[0]] = node
        return True

    def _affine(self, node: onnx.NodeProto, read: str, channels: int, axes: int) -> _Affine | None:
        """Return what a node does to every channel of what it reads; None where it is something else."""
        others = [name for name in node.input if name != read]
        if node.domain not in ("", "ai.onnx") or any(name not in self.constants for name in others):
            return None
        if node.op_type == "BatchNormalization" and len([name for name in node.output if name]) == 1:
            if node.input[0] != read or attributes_of(node).get("training_mode", 0):
                return None
            gamma, beta, mean, variance = (self.value(name).astype(np.float64) for name in node.input[1:5])
            factor = gamma / np.sqrt(variance + attributes_of(node).get("epsilon", 1e-5))
            return _Affine(factor, beta - mean * factor)
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(others) != 1:
            return None
        if node.op_type in ("Sub", "Div") and node.input[0] != read:
            return None
        number = _by_channel(self.value(others[0]), channels, axes)
        if number is None or (node.op_type == "Div" and not number.all()):
            return None
        ones, zeros = np.ones(channels), np.zeros(channels)
        return {
            "Add": lambda: _Affine(ones, number),
            "Sub": lambda: _Affine(ones, -number),
            "Mul": lambda: _Affine(number, zeros),
            "Div": lambda: _Affine(1 / number, zeros),
        }[node.op_type]()

    def finish(self) -> None:
        """Remove what was taken in, and store what was made."""
        graph = self.model.graph
        if not self.gone:
            return
        constants = {*self.replaced, *(name for node in self.gone for name in node.input)}
        constants |= {
            name for node in leading_to(graph.node, constants & self.producers.keys()) for name in reads(node)
        }
        gone = {id(node) for node in self.gone}
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node if id(n) not in gone]
        read = self.outputs.union(*map(reads, kept))
        while idle := [n for n in kept if constants.intersection(n.output) and read.isdisjoint(n.output)]:
            kept = [node for node in kept if node not in idle]
            read = self.outputs.union(*map(reads, kept))
        tensors = [
            onnx.TensorProto.FromString(tensor.SerializeToString())
            for tensor in graph.initializer
            if tensor.name not in self.made and (tensor.name in read or tensor.name not in constants)
        ]
        tensors += [
            onnx.numpy_helper.from_array(np.array(array, order="C"), name)
            for name, array in self.made.items()
            if name in read
        ]
        for entries, new in ((graph.node, kept), (graph.initializer, tensors)):
            del entries[:]
            entries.extend(new)


def _computed(model: onnx.ModelProto, names: Collection[str]) -> dict[str, onnx.TensorProto]:
    """Return those of these tensors that nodes make of constants alone."""
    stored, found = {tensor.name: tensor for tensor in model.graph.initializer}, dict[str, onnx.TensorProto]()
    for name in sorted(names):
        nodes = leading_to(model.graph.node, [name])
        made = {output for node in nodes for output in node.output}
        read = {read for node in nodes for read in reads(node)} - made
        if not nodes or not read <= stored.keys():
            continue
        graph = onnx.helper.make_graph(
            nodes, "constant", [], [onnx.helper.make_empty_tensor_value_info(name)], [stored[each] for each in read]
        )
        alone = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
        alone.graph.CopyFrom(graph)
        found[name] = onnx.numpy_helper.from_array(Runner(alone, runtime=CPU).run({})[name], name)
    return found


def _by_channel(array: Array, channels: int, axes: int) -> Array | None:
    """Return a constant as (channels,), where it is one number for all or one for each, along axis 1 of `axes`."""
    if array.dtype != np.float32:
        return None
    if array.size == 1 and array.ndim <= axes:
        return np.full(channels, array.reshape(-1)[0], np.float64)
    shapes = [(1, channels, *(1,) * (axes - 2)), (channels, *(1,) * (axes - 2))]
    return array.reshape(-1).astype(np.float64) if array.shape in shapes else None


def bias_of(node: onnx.NodeProto) -> str:
    """Return the third input of a convolution or a Gemm, empty where it is left out."""
    return str(node.input[2]) if len(node.input) > 2 else ""
