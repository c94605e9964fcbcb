"""Networks of any size for part "scaling": a transformer encoder whose weights are drawn, no framework, no training.

What a run costs depends on shapes and counts, hardly on what a network knows. Singular values fall, so that factoring
is worth something; there are no labels: the metric is agreement with the network's own decisions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DIGEST = "47957048778028cb8b245d47044f49276a290d43a42bc53417e53b0a2682da2a"
"""Stands for the networks and samples in the key of their cells: to be changed with whatever changes them."""
BLOCKS, HEADS, TOKENS, FEATURES, CLASSES = 4, 4, 16, 64, 10
WIDENING = 4
"""Hidden units of a block's MLP, in widths."""
DECAY = 0.75
"""The i-th singular value falls like i to minus this power."""
MIXED, NOISE = 16, 0.1
"""Features are mixtures of so many sources and noise, as features of real inputs depend on each other."""
OPSET, IR_VERSION = 17, 8
Array: TypeAlias = NDArray[np.float32]


def parameters(width: int) -> int:
    """Return how many numbers the weights, biases and scales of a network hold."""
    block = (4 + 2 * WIDENING) * width**2 + (5 + WIDENING) * width + 4 * width
    return FEATURES * width + width + BLOCKS * block + width * CLASSES + CLASSES


def network(width: int, seed: int) -> onnx.ModelProto:
    """Return an encoder of (n, TOKENS, FEATURES) to (n, CLASSES); width: a multiple of HEADS."""
    return _Network(width, np.random.default_rng([seed, width])).model()


def samples(count: int, seed: int, part: int) -> Array:
    """Return inputs (count, TOKENS, FEATURES); other samples for every `part` of the same seed."""
    mixing = np.random.default_rng(seed).normal(size=(MIXED, FEATURES)) / np.sqrt(MIXED)
    rng = np.random.default_rng([seed, part])
    inputs = rng.normal(size=(count, TOKENS, MIXED)) @ mixing + NOISE * rng.normal(size=(count, TOKENS, FEATURES))
    return np.asarray(inputs, np.float32)


def falling(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Return a matrix (rows, columns) of unit gain on white inputs, its singular values falling with DECAY."""
    rank = min(rows, columns)
    scales = np.arange(1, rank + 1, dtype=np.float32) ** -DECAY
    left, right = (rng.standard_normal((size, rank), np.float32) for size in (rows, columns))
    return (left * (scales / np.linalg.norm(scales))) @ right.T / np.float32(np.sqrt(rows))


class _Network:
    """A graph under construction: every step takes the name of a tensor and returns the name of another."""

    def __init__(self, width: int, rng: np.random.Generator) -> None:
        self.width, self._rng = width, rng
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        x, width = self._linear("embed", "input", FEATURES, self.width), self.width
        for block in range(BLOCKS):
            x = self._node("Add", x, self._attention(f"{block}/attention", self._normed(f"{block}/first", x)))
            wide = self._linear(f"{block}/mlp/up", self._normed(f"{block}/second", x), width, WIDENING * width)
            x = self._node(
                "Add", x, self._linear(f"{block}/mlp/down", self._node("Relu", wide), WIDENING * width, width)
            )
        self._linear("head", self._node("ReduceMean", x, axes=[1], keepdims=0), width, CLASSES, out="scores")
        shapes: dict[str, list[str | int | None]] = {"input": ["n", TOKENS, FEATURES], "scores": ["n", CLASSES]}
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
        graph = helper.make_graph(self._nodes, "synthetic", ends[:1], ends[1:], self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _attention(self, name: str, x: str) -> str:
        query, key, value = (self._heads(self._linear(f"{name}/{part}", x, self.width, self.width)) for part in "qkv")
        scale = self._constant(f"{name}/scale", np.float32(np.sqrt(HEADS / self.width)))
        weights = self._node("MatMul", query, self._node("Transpose", key, perm=[0, 1, 3, 2]))
        weights = self._node("Softmax", self._node("Mul", weights, scale), axis=-1)
        mixed = self._node("Transpose", self._node("MatMul", weights, value), perm=[0, 2, 1, 3])
        joined = self._node("Reshape", mixed, self._constant(f"{name}/joined", np.array([0, 0, self.width])))
        return self._linear(f"{name}/out", joined, self.width, self.width)

    def _heads(self, x: str) -> str:
        shape = self._constant(f"{x}/heads", np.array([0, 0, HEADS, self.width // HEADS]))
        return self._node("Transpose", self._node("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _normed(self, name: str, x: str) -> str:
        ends = {"scale": np.ones(self.width, np.float32), "bias": np.zeros(self.width, np.float32)}
        constants = [self._constant(f"{name}/{end}", value) for end, value in ends.items()]
        return self._node("LayerNormalization", x, *constants, axis=-1)

    def _linear(self, name: str, x: str, inputs: int, outputs: int, out: str | None = None) -> str:
        weight = self._constant(f"{name}/weight", falling(self._rng, inputs, outputs))
        bias = self._constant(f"{name}/bias", np.zeros(outputs, np.float32))
        return self._node("Add", self._node("MatMul", x, weight), bias, out=out)

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        name = out or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name
