"""What an operator is to this package, and a node as the operators see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import onnx

from onnx_lowrank.types import Array, Positions, Stage, Why

Names: TypeAlias = Callable[[str], str]
"""Gives a name that nothing in the graph has yet, from a hint."""
Refusal: TypeAlias = tuple[Why, str]
Observable: TypeAlias = Literal["both", "inputs", "outputs"]
"""Which vectors of y = W x can be had from tensors of the graph. A lookup's inputs are one-hot and never formed; what a
recurrent cell makes of W x stays inside it."""

Place: TypeAlias = Literal["whole", "first", "inner", "last"]
"""Where a stage stands: the dense weight as it is, or the first, an inner or the last one of a chain."""


@dataclass(frozen=True, slots=True)
class Call:
    """One node: its type, inputs, first output in use, attributes, and which input (`slot`) holds the weight.

    `shape` is that of the weight as it arrives; `outputs` are all of them, empty where one is left out. turned: what is
    factored is the transpose of this node's weight, as a lookup reads it.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    slot: int
    opset: int
    shape: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()
    transposed: bool = False

    def input(self, index: int) -> str:
        """Return the name of an input, empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list attribute."""
        return tuple(int(v) for v in self.attributes.get(name, default))


class Op(Protocol):
    """An operator with a constant weight: y = W x at every position."""

    op_type: str
    seen: Observable

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Return why a stored weight of this shape cannot be factored here, None where it can."""

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the stored weight as (out, in of one group, *spatial), without scale factors."""

    def stored(self, call: Call, stage: Stage, *, place: Place = "whole") -> Array:
        """Return a stage's weight as the node that `write` makes of it stores it; equal for all that share a weight."""

    def groups(self, call: Call) -> int:
        """Return how many diagonal blocks the weight has, each with inputs and outputs of its own."""

    def whole(self, call: Call) -> bool:
        """Return whether the spatial axes cannot be dealt to different nodes."""

    def role(self, call: Call) -> tuple[Any, ...]:
        """Return what must agree between nodes that share a weight."""

    def data(self, call: Call) -> str:
        """Return the name of the activations."""

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return where the weight works, from the shapes of activations and output."""

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the activations as (positions, in); of a lookup the numbers of the rows, (positions,)."""

    def results(self, call: Call, y: Array) -> Array:
        """Return the output as (positions, out)."""

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output without its bias, as (positions, out)."""

    def scale(self, call: Call) -> float:
        """Return what the weight is multiplied by in this node."""

    def patches(self, call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array | None:
        """Return the inputs (len(picks), in, *kernel) of the outputs `picks`, out of `count`; None: unknown."""

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
    outputs = tuple(node.output)
    return Call(
        op_name(node), node.name, tuple(node.input), first_output(node), attributes, slot, opset, shape, outputs
    )


def one_group(call: Call) -> int:
    """Return 1: the weight is whole."""
    return 1


def divisible(call: Call) -> bool:
    """Return False: axes there are can be dealt to different nodes."""
    return False


def unscaled(call: Call) -> float:
    """Return 1: the node multiplies by the weight alone."""
    return 1.0


def rows_of_input(call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
    """Return (…, in) as (positions, in)."""
    return as_vectors(x)


def op_name(node: onnx.NodeProto) -> str:
    """Return a node's type, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def first_output(node: onnx.NodeProto) -> str:
    """Return the first output that is not left out: what a node is known by."""
    return next((str(name) for name in node.output if name), "")


def no_patches(call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array:
    """Raise: only an operator with a kernel has patches."""
    raise TypeError(f"{call.op} has no kernel, so no patches ({x.shape}, {kernel}, {len(picks)} of {count})")


def channel_vectors(x: Array) -> Array:
    """Return (N, channels, *spatial) as (positions, channels)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def as_vectors(x: Array) -> Array:
    """Return (…, n) as (positions, n)."""
    return x.reshape(-1, x.shape[-1]) if x.ndim else np.reshape(x, (1, 1))
