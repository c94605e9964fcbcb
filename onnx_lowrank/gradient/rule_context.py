"""What a rule is given: one node, its operands, and the gradient at its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from onnx import NodeProto, helper

from onnx_lowrank.gradient.emitter import Emitter, NoRule, Value
from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.types import Array

Gradients: TypeAlias = Sequence[Value | None]
"""One entry an input of the node (missing ones at the end are None): its gradient, None where it has none."""


class RuleContext:
    """One node on its way back: its operands as values, its attributes, the gradient at its outputs."""

    def __init__(
        self,
        forward: Forward,
        emit: Emitter,
        node: NodeProto,
        grads: Sequence[Value | None] = (),
        wanted: Sequence[bool] = (),
    ) -> None:
        self.forward = forward
        self.emit = emit
        self.node = node
        self.grads = tuple(grads)
        self._wanted = tuple(wanted)

    @property
    def g(self) -> Value:
        """The gradient at the first output. Raises NoRule where another output carries one."""
        if not self.grads or self.grads[0] is None or any(grad is not None for grad in self.grads[1:]):
            raise NoRule("the loss depends on an output other than the first")
        return self.grads[0]

    def wants(self, index: int) -> bool:
        """Whether the gradient at this input is asked for."""
        return index < len(self._wanted) and self._wanted[index]

    def only_wants(self, *indices: int) -> None:
        """Raise NoRule where the gradient is asked for at any other input."""
        for index in range(len(self._wanted)):
            if self._wanted[index] and index not in indices:
                raise NoRule(f"input {index} is computed in the graph")

    def has(self, index: int) -> bool:
        """Whether this input is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def x(self, index: int = 0) -> Value:
        """Return an input."""
        return self.value(self.node.input[index])

    def y(self, index: int = 0) -> Value:
        """Return an output."""
        return self.value(self.node.output[index])

    def value(self, name: str) -> Value:
        """Return a tensor of the forward graph."""
        return Value(self.emit, name, self.forward.elem(name), self.forward.dims(name))

    def extra_output(self, index: int, elem: int) -> Value:
        """Return an optional output, adding it to the forward node where it was left out."""
        while len(self.node.output) <= index:
            self.node.output.append("")
        if not self.node.output[index]:
            self.node.output[index] = self.emit.fresh(f"{self.node.op_type}_{index}")
        self.emit.elems[self.node.output[index]] = elem
        return Value(self.emit, self.node.output[index], elem)

    def constant(self, index: int) -> Array | None:
        """Return an input's value where it is a constant, else None."""
        return self.forward.constant(self.node.input[index]) if self.has(index) else None

    def integers(self, name: str) -> list[int] | None:
        """Return a list attribute, None where it is left out."""
        value = self._attribute(name)
        return None if value is None else [int(v) for v in value]

    def numbers(self, name: str) -> list[float] | None:
        """Return a list attribute of numbers, None where it is left out."""
        value = self._attribute(name)
        return None if value is None else [float(v) for v in value]

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self._attribute(name)
        return default if value is None else int(value)

    def number(self, name: str, default: float) -> float:
        """Return a number attribute."""
        value = self._attribute(name)
        return default if value is None else float(value)

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        value = self._attribute(name)
        return default if value is None else str(value.decode() if isinstance(value, bytes) else value)

    def axis(self, default: int) -> int:
        """Return the attribute `axis`, counted from the front of the first input."""
        axis = self.integer("axis", default)
        return axis if axis >= 0 else axis + self.x().rank

    def _attribute(self, name: str) -> Any:
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return None


Rule: TypeAlias = Callable[[RuleContext], Gradients]
"""Returns the gradient at each input of the step's node; raises NoRule where it has none to offer."""
