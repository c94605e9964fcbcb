"""Write ONNX nodes as arithmetic on values: every rule reads like its formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_lowrank.graph.names import Fresh
from onnx_lowrank.types import Array

Dims: TypeAlias = tuple[int | str | None, ...]
"""One entry an axis: its size, a symbol (equal symbols are equal sizes), or None where it is not known."""

INT64 = int(TensorProto.INT64)
BOOL = int(TensorProto.BOOL)
FLOAT = int(TensorProto.FLOAT)
DOUBLE = int(TensorProto.DOUBLE)
FLOATS = frozenset({FLOAT, DOUBLE, int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16)})
"""Element types that carry a gradient."""


class NoRule(Exception):  # noqa: N818 - an answer, not an error: the sites above stay without a gradient
    """A node cannot be differentiated; the text says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in the graph that is being written: its name, element type and what is known of its shape."""

    emit: Emitter
    name: str
    elem: int
    dims: Dims | None = None

    @property
    def rank(self) -> int:
        """The number of axes. Raises NoRule where it is not known."""
        if self.dims is None:
            raise NoRule(f"the rank of {self.name!r} is unknown; pass observed shapes")
        return len(self.dims)

    def apply(self, op_type: str, **attributes: Any) -> Value:
        """Return an elementwise function of one operand."""
        return self.emit.op(op_type, self, dims=self.dims, **attributes)

    def like(self, other: Value) -> Value:
        """Return the same tensor, known to have the shape of `other`."""
        return replace(self, dims=other.dims)

    def cast(self, elem: int) -> Value:
        """Return the tensor in another element type."""
        return self if elem == self.elem else self.emit.op("Cast", self, elem=elem, dims=self.dims, to=elem)

    def _binary(self, op_type: str, other: Operand, *, swap: bool = False) -> Value:
        right = other if isinstance(other, Value) else self.emit.scalar(other, self.elem)
        pair = (right, self) if swap else (self, right)
        return self.emit.op(op_type, *pair, dims=broadcast(self.dims, right.dims))

    def __add__(self, other: Operand) -> Value:
        return self._binary("Add", other)

    def __sub__(self, other: Operand) -> Value:
        return self._binary("Sub", other)

    def __mul__(self, other: Operand) -> Value:
        return self if isinstance(other, (int, float)) and other == 1 else self._binary("Mul", other)

    def __truediv__(self, other: Operand) -> Value:
        return self._binary("Div", other)

    def __radd__(self, other: Operand) -> Value:
        return self._binary("Add", other, swap=True)

    def __rsub__(self, other: Operand) -> Value:
        return self._binary("Sub", other, swap=True)

    def __rmul__(self, other: Operand) -> Value:
        return self * other

    def __rtruediv__(self, other: Operand) -> Value:
        return self._binary("Div", other, swap=True)

    def __neg__(self) -> Value:
        return self.apply("Neg")

    def compare(self, op_type: str, other: Operand) -> Value:
        """Return a boolean tensor: Equal, Less, Greater, …"""
        value = replace(self._binary(op_type, other), elem=BOOL)
        self.emit.elems[value.name] = BOOL
        return value

    def mask(self, op_type: str, other: Operand) -> Value:
        """Return 1 where the comparison holds and 0 elsewhere, in this tensor's element type."""
        return self.compare(op_type, other).cast(self.elem)


Operand: TypeAlias = Value | int | float


def broadcast(one: Dims | None, other: Dims | None) -> Dims | None:
    """Return what is known of the shape of an elementwise result."""
    if one is None or other is None:
        return None
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    return tuple(_common(a, b) for a, b in pairs)


def _common(a: int | str | None, b: int | str | None) -> int | str | None:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    sizes = [size for size in (a, b) if isinstance(size, int)]
    return sizes[0] if sizes else None


class Emitter:
    """Appends nodes and constants under names that are not taken anywhere in the model."""

    def __init__(self, names: Fresh, opset: int, prefix: str) -> None:
        self.names = names
        self.opset = opset
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.elems: dict[str, int] = {}
        self.dims: dict[str, Dims | None] = {}
        self._known: dict[tuple[Any, ...], Value] = {}

    def fresh(self, hint: str) -> str:
        """Return a name that no tensor or node has, and take it."""
        return self.names(f"{self.prefix}{hint}")

    def op(
        self,
        op_type: str,
        *inputs: Value | None,
        elem: int | None = None,
        dims: Dims | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Append a node with one output, of the first operand's element type unless `elem` says otherwise."""
        name = self.fresh(op_type)
        self._append(op_type, inputs, [name], domain, attributes)
        self.elems[name] = next(x.elem for x in inputs if x is not None) if elem is None else elem
        self.dims[name] = dims
        return Value(self, name, self.elems[name], dims)

    def ops(self, op_type: str, inputs: Sequence[Value | None], count: int, **attributes: Any) -> tuple[Value, ...]:
        """Append a node with `count` outputs, all of the first operand's element type."""
        names = [self.fresh(op_type) for _ in range(count)]
        self._append(op_type, inputs, names, "", attributes)
        elem = next(x.elem for x in inputs if x is not None)
        self.elems.update(dict.fromkeys(names, elem))
        return tuple(Value(self, name, elem) for name in names)

    def _append(
        self, op_type: str, inputs: Sequence[Value | None], outputs: list[str], domain: str, attributes: dict[str, Any]
    ) -> None:
        given = [value.name if value is not None else "" for value in inputs]
        while given and not given[-1]:
            given.pop()
        present = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, given, outputs, name=outputs[0], domain=domain, **present))

    def constant(self, array: Array) -> Value:
        """Return a constant with the array's own type; equal small ones are made once."""
        key = ("constant", array.dtype.str, array.shape, array.tobytes()) if array.size <= 16 else None
        if key is not None and key in self._known:
            return self._known[key]
        name = self.fresh("constant")
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        value = Value(self, name, int(tensor.data_type), tuple(array.shape))
        self.constants[name] = tensor
        if key is not None:
            self._known[key] = value
        return value

    def scalar(self, number: float, elem: int) -> Value:
        """Return a constant of rank 0 in any element type, bfloat16 included."""
        key = ("scalar", elem, float(number))
        if key not in self._known:
            name = self.fresh("constant")
            self.constants[name] = helper.make_tensor(name, elem, (), [int(number) if elem == INT64 else number])
            self._known[key] = Value(self, name, elem, ())
        return self._known[key]

    def ints(self, numbers: Sequence[int]) -> Value:
        """Return a constant int64 vector."""
        return self.constant(np.asarray(list(numbers), dtype=np.int64))

    def shape(self, x: Value) -> Value:
        """Return the shape as an int64 vector: a constant where all of it is known."""
        if x.dims is not None and all(isinstance(size, int) for size in x.dims):
            return self.ints([size for size in x.dims if isinstance(size, int)])
        return self._once("Shape", x, dims=None if x.dims is None else (len(x.dims),))

    def size(self, x: Value, axis: int) -> Value:
        """Return the extent of an axis (negative counts from the end) as a vector of one."""
        known = x.dims[axis] if x.dims is not None and -len(x.dims) <= axis < len(x.dims) else None
        if isinstance(known, int):
            return self.ints([known])
        return self._once("Shape", x, dims=(1,), start=axis, end=axis + 1 if axis != -1 else None)

    def _once(self, op_type: str, x: Value, *, dims: Dims | None, **attributes: Any) -> Value:
        key = (op_type, x.name, *sorted(attributes.items()))
        if key not in self._known:
            self._known[key] = self.op(op_type, x, elem=INT64, dims=dims, **attributes)
        return self._known[key]

    def concat(self, parts: Sequence[Value], axis: int = 0) -> Value:
        """Return the parts joined along an axis."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)
