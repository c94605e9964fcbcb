"""What an operator is to this package, and a node as the operators see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx

from onnx_lowrank.types import Array, Positions, Stage, Why

Names: TypeAlias = Callable[[str], str]
"""Gives a name that nothing in the graph has yet, from a hint."""
Refusal: TypeAlias = tuple[Why, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One node: its type, inputs, single output, attributes, and which input (`slot`) holds the weight of `shape`."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    slot: int
    opset: int
    shape: tuple[int, ...] = ()

    def input(self, index: int) -> str:
        """Return the name of an input, empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list attribute."""
        return tuple(int(v) for v in self.attributes.get(name, default))


class Op(Protocol):
    """An operator with a constant weight: y = W x at every position."""

    op_type: str

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Return why a stored weight of this shape cannot be factored here, None where it can."""

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the stored weight as (out, in of one group, *spatial), without scale factors."""

    def stored(self, call: Call, stage: Stage) -> Array:
        """Return a stage's weight as this operator's node stores it; equal for all nodes that share a weight."""

    def groups(self, call: Call) -> int:
        """Return how many diagonal blocks the weight has, each with inputs and outputs of its own."""

    def role(self, call: Call) -> tuple[Any, ...]:
        """Return what must agree between nodes that share a weight."""

    def data(self, call: Call) -> str:
        """Return the name of the activations."""

    def places(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return where the weight works, from the shapes of activations and output."""

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the activations as (positions, in)."""

    def results(self, call: Call, y: Array) -> Array:
        """Return the output as (positions, out)."""

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output without its bias, as (positions, out)."""

    def scale(self, call: Call) -> float:
        """Return what the weight is multiplied by in this node."""

    def patches(self, call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array:
        """Return the inputs (len(picks), in, *kernel) of the output positions `picks`, out of `count`."""

    def write(self, call: Call, stages: list[tuple[Stage, str]], names: Names) -> Written:
        """Return nodes that compute the call's output from its data through `stages` (each with its weight's name)."""


@dataclass(frozen=True, slots=True)
class Written:
    """What replaces a node: new nodes in order, and tensors they need besides the stages' weights."""

    nodes: tuple[onnx.NodeProto, ...]
    extra: Mapping[str, Array]


def call_of(node: onnx.NodeProto, slot: int, opset: int, shape: tuple[int, ...] = ()) -> Call:
    """Return a node as the operators see it; `shape` is that of its stored weight."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    return Call(node.op_type, node.name, tuple(node.input), node.output[0], attributes, slot, opset, shape)


def one_group(call: Call) -> int:
    """Return 1: the weight is whole."""
    return 1


def no_patches(call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array:
    """Raise: only an operator with a kernel has patches."""
    raise TypeError(f"{call.op} has no kernel, so no patches ({x.shape}, {kernel}, {len(picks)} of {count})")


def as_vectors(x: Array) -> Array:
    """Return (…, n) as (positions, n)."""
    return x.reshape(-1, x.shape[-1]) if x.ndim else np.reshape(x, (1, 1))
