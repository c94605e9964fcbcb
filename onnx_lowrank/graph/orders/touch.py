"""A node as an order reaches it: at which input or output, along which axis; and what a rule may ask about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx

from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.orders.region import Edit, SeenError
from onnx_lowrank.graph.orders.shapes import Dims
from onnx_lowrank.types import Array


def place(node: onnx.NodeProto) -> str:
    """Return the first output that is not left out, which identifies a node."""
    return next((str(name) for name in node.output if name), "")


@dataclass(frozen=True, slots=True)
class Effects:
    """What else has to follow at a node: (tensor, axis from the end), and inputs with constants."""

    carried: tuple[tuple[str, int], ...] = ()
    edits: tuple[Edit, ...] = ()

    def __add__(self, other: Effects) -> Effects:
        return Effects(self.carried + other.carried, self.edits + other.edits)


NOTHING = Effects()


@dataclass(frozen=True, eq=False)
class Touch:
    """A node that an order of `size` channels reaches, at input `slot` or, None, at its output, along `axis`.

    axis: from the end. constants: tensors that come from a stored one alone. folded: the numbers of a small constant,
    by its name; None of others. carried: the tensors that are known to be in the order, with their axes. Methods raise
    SeenError where what they are asked is not known.
    """

    node: onnx.NodeProto
    slot: int | None
    axis: int
    size: int
    known_dims: Mapping[str, Dims]
    constants: Set[str]
    folded: Callable[[str], Array | None]
    carried: Mapping[str, int]

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The node's own attributes."""
        return {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute if not a.ref_attr_name}

    @property
    def inside(self) -> bool:
        """Whether the order comes in, not out."""
        return self.slot is not None

    def name(self, slot: int | None) -> str:
        """Return the tensor at an input, or, None, at the output; empty where it is left out."""
        if slot is None:
            return str(self.node.output[0])
        return str(self.node.input[slot]) if slot < len(self.node.input) else ""

    def dims(self, slot: int | None) -> Dims:
        """Return the extents of an input, or, None, of the output."""
        known = self.known_dims.get(self.name(slot))
        if known is None:
            raise SeenError(f"the shape of {self.name(slot)!r} is not known")
        return known

    def rank(self, slot: int | None) -> int:
        """Return how many axes an input has, or, None, the output."""
        return len(self.dims(slot))

    def numbers(self, slot: int, attribute: str) -> tuple[int, ...] | None:
        """Return whole numbers that are an attribute or, in later opsets, a constant; None where there are none."""
        if attribute in self.attributes:
            value = self.attributes[attribute]
            return tuple(value) if isinstance(value, (list, tuple)) else (int(value),)
        if not self.name(slot):
            return None
        return tuple(int(v) for v in self.array(slot).ravel())

    def array(self, slot: int) -> Array:
        """Return the numbers of a small constant."""
        array = self.folded(self.name(slot))
        if array is None:
            raise SeenError(f"input {slot} of {self.node.op_type} is computed")
        return array

    def from_end(self, axis: int, rank: int) -> int:
        """Return an axis of either count, from the end."""
        return axis if axis < 0 else axis - rank

    def output(self, axis: int) -> Effects:
        """Return that the output is in the order along an axis."""
        return Effects(((self.name(None), axis),))

    def operand(self, slot: int, axis: int) -> Effects:
        """Return that an input is in the order along an axis: nothing where it has one number for all channels."""
        name = self.name(slot)
        if not name:
            return NOTHING
        if (slot, axis) == (self.slot, self.axis) or self.carried.get(name) == axis:
            return Effects(((name, axis),))
        dims = self.dims(slot)
        if len(dims) < -axis or dims[axis] == 1:
            return NOTHING
        if dims[axis] != self.size:
            raise SeenError(f"{name!r} has {dims[axis] or 'unknown'} elements for {self.size} channels")
        if name in self.constants:
            return Effects(edits=(Edit(place(self.node), slot, axis),))
        return Effects(((name, axis),))

    def only_data(self) -> None:
        """Raise SeenError where the order reaches another input than the first."""
        if self.slot not in (None, 0):
            raise SeenError(f"input {self.slot} of {self.node.op_type} is computed")


def stored_numbers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return stored tensor -> its numbers, initializers and Constant nodes, single floats included."""
    made = {node.output[0]: constant_value(node, floats=True) for node in model.graph.node if node.output}
    stored = {name: tensor for name, tensor in made.items() if tensor is not None}
    return stored | {tensor.name: tensor for tensor in model.graph.initializer}
