"""The interface of an operator, and a node bound to its operator."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import onnx

from onnx_lowrank.types import Activations, Array, Positions, SideName, Stage, Why

Names: TypeAlias = Callable[[str], str]
"""Returns a name that is not yet used in the graph, from a hint."""
Refusal: TypeAlias = tuple[Why, str]
Observable: TypeAlias = Literal["both", "inputs", "outputs"]
"""Which vectors of y = W x are tensors of the graph. A lookup's inputs are one-hot and never formed; what a
recurrent cell makes of W x stays inside it."""

SIDES: tuple[SideName, ...] = ("out", "in")
StagePosition: TypeAlias = Literal["whole", "first", "inner", "last"]
"""Which stage of a chain: the dense weight as it is, or the first, an inner or the last one."""
NamedStages: TypeAlias = Sequence[tuple[Stage, str]]
"""Stages in order, each with the name of its stored weight."""


@dataclass(frozen=True, slots=True)
class Written:
    """What replaces a node: new nodes in order, and tensors they need besides the stages' weights.

    orders: the outputs of Gathers that only put channels in another order. inner: what the first stage gives.
    """

    nodes: tuple[onnx.NodeProto, ...]
    extra: Mapping[str, Array] = field(default_factory=dict)
    orders: tuple[str, ...] = ()
    inner: str = ""


@dataclass(frozen=True, slots=True)
class StageSite:
    """Where a stage is written: the `index`-th of `count`, from tensor `input` to `output`, by the tensor `weight`.

    linear: without what the node adds to W x or multiplies it by (bias, scale). bias: a tensor to add all the same;
    scaled: with the scale all the same.
    """

    index: int
    count: int
    input: str
    weight: str
    output: str
    linear: bool = False
    bias: str = ""
    scaled: bool = False

    def giving(self, output: str, reading: str = "") -> StageSite:
        """Return the same with another output, and another input where one is given."""
        return replace(self, output=output, input=reading or self.input)

    @property
    def last(self) -> bool:
        """Whether it is the last stage."""
        return self.index == self.count - 1


class Op:
    """An operator with a constant weight: y = W x at every position.

    One class an operator; what most of them share is here. `shares_input`: whether weights that read the same tensor
    may have one first factor (y_i = U_i (V x)).
    """

    op_type: str
    observable: Observable = "both"
    transposed: bool = False
    shares_input: bool = False

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Return why a stored weight of this shape cannot be factored here, None where it can."""
        raise NotImplementedError

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the stored weight as (out, in of one group, *spatial), without scale factors."""
        raise NotImplementedError

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return a stage's weight as `node` reads it; equal for all that share a weight."""
        raise NotImplementedError

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return the node that applies one stage."""
        raise NotImplementedError

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return where the weight works, from the shapes of activations and output."""
        raise NotImplementedError

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the activations as (positions, in); of a lookup the numbers of the rows, (positions,)."""
        raise NotImplementedError

    def results(self, call: Call, y: Array) -> Array:
        """Return the output as (positions, out)."""
        raise NotImplementedError

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return a node's multiply-accumulates; left, right, out: shapes of its first inputs and of its output."""
        raise NotImplementedError

    def counts(self, node: onnx.NodeProto) -> bool:
        """Return whether a node multiplies at all, with two operands whose shapes say how much."""
        return True

    def scale_axis(self, node: onnx.NodeProto, slot: int, dimensions: int) -> int | None:
        """Return the axis of a weight's outputs, each with a scale of its own in int8; None where it is no weight."""
        return None

    def integers(self, call: Call) -> Activations:
        """Return how the activations of a node become integers, where onnxruntime multiplies those; "": nowhere."""
        return ""

    def linear(self, call: Call, y: Array, bias: Array | None) -> Array:
        """Return the output without its bias, as (positions, out)."""
        return self.results(call, y)

    def data(self, call: Call) -> str:
        """Return the name of the activations."""
        return call.inputs[0]

    def groups(self, call: Call) -> int:
        """Return how many diagonal blocks the weight has, each with inputs and outputs of its own."""
        return 1

    def whole(self, call: Call) -> bool:
        """Return whether the spatial axes cannot be divided among nodes."""
        return False

    def role(self, call: Call) -> tuple[Any, ...]:
        """Return what must agree between nodes that share a weight."""
        return (self.op_type,)

    def form(self, call: Call) -> Hashable:
        """Return what must agree, besides the input, between weights that share their first factor."""
        return call.slot

    def scale(self, call: Call) -> float:
        """Return what the weight is multiplied by in this node."""
        return 1.0

    def patches(self, call: Call, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array | None:
        """Return the inputs (len(picks), in, *kernel) of the outputs `picks`, out of `count`; None: unknown.

        Raises TypeError where there is no kernel.
        """
        raise TypeError(f"{self.op_type} has no kernel, so no patches ({x.shape}, {kernel}, {len(picks)} of {count})")

    def prepare(
        self, call: Call, stages: NamedStages, names: Names
    ) -> tuple[Call, NamedStages, tuple[onnx.NodeProto, ...]]:
        """Return the call and the stages as they are to be written, and nodes that come before them."""
        return call, stages, ()

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the axis of a stage's output along which its rows lie; None where rows cannot pass through."""
        return None

    def input_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the axis of a stage's input along which its columns lie, as its rows do in its output; None: nowhere.

        Only the first stage is asked.
        """
        return None

    def identity_sides(self, call: Call) -> tuple[SideName, ...]:
        """Return the sides of a chain on which an identity block need not be stored."""
        first, last = (StageSite(index, 2, "", "", "") for index in range(2))
        able = {"out": self.channel_axis(call, last), "in": self.input_axis(call, first)}
        return tuple(side for side in SIDES if able[side] is not None)

    def adds(self, call: Call) -> str:
        """Return the tensor that the node adds to W x, empty where there is none."""
        return ""

    def constant_bias(self, call: Call, value: Array) -> Array | None:
        """Return what the node adds to W x as (out,), from the tensor's value; None where it is no such vector."""
        return None

    def laid_bias(self, call: Call, bias: Array) -> Array:
        """Return a part of that as the node reads it."""
        return bias

    def finish(self, call: Call, tensor: str, names: Names) -> Written:
        """Return what makes the call's output of W x where the last stage was written `linear`: scale and bias."""
        return Written((onnx.helper.make_node("Identity", [tensor], [call.output], names(f"{call.output}.whole")),))


@dataclass(frozen=True, slots=True)
class Call:
    """One node bound to its operator: inputs, first output in use, attributes, and which input holds the weight.

    `slot` is that input; `shape` is that of the weight as it arrives; `outputs` are all of them, empty where one is
    left out. Methods are those of the operator; `kernel` is the weight's spatial shape.
    """

    op: Op
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    slot: int
    opset: int
    shape: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def op_type(self) -> str:
        """The ONNX type, with its domain where that is not ONNX's own."""
        return self.op.op_type

    @property
    def transposed(self) -> bool:
        """Whether what is factored is the transpose of this node's weight, as a lookup reads it."""
        return self.op.transposed

    @property
    def observable(self) -> Observable:
        """Which vectors of y = W x are tensors of the graph."""
        return self.op.observable

    @property
    def data(self) -> str:
        """The name of the activations."""
        return self.op.data(self)

    @property
    def groups(self) -> int:
        """How many diagonal blocks the weight has."""
        return self.op.groups(self)

    @property
    def whole(self) -> bool:
        """Whether the spatial axes cannot be divided among nodes."""
        return self.op.whole(self)

    @property
    def role(self) -> tuple[Any, ...]:
        """What must agree between nodes that share a weight."""
        return self.op.role(self)

    @property
    def scale(self) -> float:
        """What the weight is multiplied by in this node."""
        return self.op.scale(self)

    @property
    def identity_sides(self) -> tuple[SideName, ...]:
        """The sides of a chain on which an identity block need not be stored."""
        return self.op.identity_sides(self)

    def input(self, index: int) -> str:
        """Return the name of an input, empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def integers(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return a list attribute."""
        return tuple(int(v) for v in self.attributes.get(name, default))

    def refuse(self, shape: tuple[int, ...]) -> Refusal | None:
        """Return why a stored weight of this shape cannot be factored here, None where it can."""
        return self.op.refuse(self, shape)

    def canonical(self, weight: Array) -> Array:
        """Return the stored weight as (out, in of one group, *spatial)."""
        return self.op.canonical(self, weight)

    def stored(self, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return a stage's weight as its node reads it."""
        return self.op.stored(self, stage, position=position)

    def positions(self, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Return where the weight works, from the shapes of activations and output."""
        return self.op.positions(self, x, y, kernel)

    def vectors(self, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return the activations as (positions, in)."""
        return self.op.vectors(self, x, kernel)

    def results(self, y: Array) -> Array:
        """Return the output as (positions, out)."""
        return self.op.results(self, y)

    def linear(self, y: Array, bias: Array | None) -> Array:
        """Return the output without its bias, as (positions, out)."""
        return self.op.linear(self, y, bias)

    def patches(self, x: Array, kernel: tuple[int, ...], picks: Array, count: int) -> Array | None:
        """Return the inputs (len(picks), in, *kernel) of the outputs `picks`, out of `count`; None: unknown."""
        return self.op.patches(self, x, kernel, picks, count)

    def bound_to(self, op: Op) -> Call:
        """Return the same node as another operator sees it."""
        return replace(self, op=op)
