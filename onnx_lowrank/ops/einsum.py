"""Einsum of two operands, one of them constant: its letters are summed over or kept, a matrix of several axes."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.ops.nodes import attributes_of, node_name, single
from onnx_lowrank.ops.op import Call, Names, Op, Refusal, StagePosition, StageSite, Written
from onnx_lowrank.types import Array, Positions, Stage, Why

DOTS = "..."


@dataclass(frozen=True, slots=True)
class Equation:
    """The letters of data, weight and output."""

    data: str
    weight: str
    output: str

    @staticmethod
    def of(call: Call) -> Equation | None:
        """Return the equation of a call, None where it has other than two operands."""
        left, right, output = split_equation(call.attributes["equation"])
        if not right or len(call.inputs) != 2:
            return None
        data, weight = (left, right) if call.slot == 1 else (right, left)
        return Equation(data, weight, output)

    @property
    def summed(self) -> str:
        """The weight's letters that the output does not have, in its own order."""
        return "".join(c for c in self.weight if c not in self.output)

    @property
    def kept(self) -> str:
        """The weight's letters that the output has, in its own order."""
        return "".join(c for c in self.weight if c in self.output)

    @property
    def rest(self) -> str:
        """What is left of the data."""
        return "".join(c for c in self.data if c not in self.summed)

    @property
    def fault(self) -> str:
        """Why the weight is no matrix here; empty where it is one."""
        terms = [term.replace(DOTS, "") for term in (self.data, self.weight, self.output)]
        if any(len(set(term)) < len(term) for term in terms):
            return "a letter stands twice"
        if DOTS in self.weight or DOTS.join(terms).count(DOTS) < 2:
            return "the weight's axes are not all named"
        if set(self.kept) & set(terms[0]):
            return "it has a matrix of its own for every index that both share"
        if set(self.summed) - set(terms[0]) or set(terms[0]) - set(terms[2]) - set(self.summed):
            return "one operand alone is summed over"
        return "" if self.summed and self.kept else "nothing is multiplied and summed"

    def spelled(self, axes: int) -> Equation:
        """Return the equation for data of so many axes, with letters in the place of the dots."""
        free = [c for c in string.ascii_letters if c not in self.data + self.weight + self.output]
        dots = "".join(free[: axes - len(self.data.replace(DOTS, ""))])
        return Equation(self.data.replace(DOTS, dots), self.weight, self.output.replace(DOTS, dots))


def split_equation(equation: bytes | str) -> tuple[str, str, str]:
    """Return the two operands' letters and the output's; the second empty where there are not two."""
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    inputs, arrow, output = text.partition("->")
    if not arrow:  # letters that occur once, in alphabetical order, after the dots
        letters = inputs.replace(",", "").replace(DOTS, "")
        output = (DOTS if DOTS in inputs else "") + "".join(sorted(c for c in letters if letters.count(c) == 1))
    terms = inputs.split(",")
    return (terms[0], terms[1], output) if len(terms) == 2 else (inputs, "", output)


def einsum_macs(equation: bytes | str, left: Sequence[int], right: Sequence[int]) -> float:
    """Return the multiply-accumulates of an Einsum of two operands of these shapes: the product of all extents."""
    sizes: dict[str, int] = {}
    for term, shape in zip(split_equation(equation)[:2], (left, right), strict=True):
        before = term.partition(DOTS)[0]
        after = term.rpartition(DOTS)[2] if DOTS in term else ""
        names = [*before, *(f"dots{-i}" for i in range(len(shape) - len(before) - len(after), 0, -1)), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
    return float(math.prod(sizes.values()))


class Einsum(Op):
    """The weight is canonically (kept, summed), several letters taken together; a chain is one Einsum a stage."""

    op_type = "Einsum"

    def refuse(self, call: Call, shape: tuple[int, ...]) -> Refusal | None:
        """Refuse what is no matrix product."""
        equation = Equation.of(call)
        fault = "not two operands" if equation is None else equation.fault
        return (Why.OPERATOR, f"Einsum: {fault}") if fault else None

    def _equation(self, call: Call) -> Equation:
        equation = Equation.of(call)
        if equation is None:
            raise ValueError(f"{call.name} has not two operands")
        return equation

    def canonical(self, call: Call, weight: Array) -> Array:
        """Return the weight as (kept, summed)."""
        equation = self._equation(call)
        order = [equation.weight.index(c) for c in equation.kept + equation.summed]
        kept = math.prod(weight.shape[axis] for axis in order[: len(equation.kept)])
        return np.transpose(weight, order).reshape(kept, -1)

    def stored(self, call: Call, stage: Stage, *, position: StagePosition = "whole") -> Array:
        """Return (rank, *summed) of the first stage, (*kept, rank) of the last, the weight's own axes of the whole."""
        equation = self._equation(call)
        sizes = dict(zip(equation.weight, call.shape, strict=True))
        kept, summed = ([sizes[c] for c in letters] for letters in (equation.kept, equation.summed))
        rows, columns = stage.weight.shape
        rows_as = kept if position in ("whole", "last") and not stage.passed else [rows]
        columns_as = summed if position in ("whole", "first") and not stage.added else [columns]
        array = stage.weight.reshape(*rows_as, *columns_as)
        if position != "whole":
            return array
        return np.transpose(array, [(equation.kept + equation.summed).index(c) for c in equation.weight])

    def role(self, call: Call) -> tuple[Any, ...]:
        """Which of the weight's axes are kept."""
        equation = self._equation(call)
        return (self.op_type, *(c in equation.kept for c in equation.weight))

    def data(self, call: Call) -> str:
        """Return the other operand."""
        return call.inputs[1 - call.slot]

    def positions(self, call: Call, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> Positions:
        """Count the vectors that the weight maps."""
        equation = self._equation(call).spelled(len(x))
        return Positions(calls=float(math.prod(x[equation.data.index(c)] for c in equation.rest)))

    def vectors(self, call: Call, x: Array, kernel: tuple[int, ...]) -> Array:
        """Return x as (rest, summed)."""
        equation = self._equation(call).spelled(x.ndim)
        return _matrix(x, equation.data, equation.rest, equation.summed)

    def results(self, call: Call, y: Array) -> Array:
        """Return y as (rest, kept)."""
        equation = self._equation(call)
        kept = equation.kept
        equation = equation.spelled(y.ndim - len(kept) + len(equation.summed))
        return _matrix(y, equation.output, equation.rest, kept)

    def node(self, call: Call, stage: Stage, at: StageSite, names: Names) -> Written:
        """Return an Einsum; what lies between is (rest, rank)."""
        equation = self._equation(call)
        used = equation.data + equation.weight + equation.output
        inner = [c for c in string.ascii_letters if c not in used][
            :2
        ]  # in turns: a stage reads one and gives the other
        before, after = inner[(at.index - 1) % 2], inner[at.index % 2]
        letters = equation.data if at.index == 0 else equation.rest + before
        reads, gives = equation.summed if at.index == 0 else before, equation.kept if at.last else after
        to = equation.output if at.last else equation.rest + after
        whole = at.count == 1  # the weight as it is stored
        operands, terms = [at.input, at.weight], [letters, equation.weight if whole else gives + reads]
        if call.slot == 0:
            operands, terms = operands[::-1], terms[::-1]
        return single("Einsum", operands, at, node_name(call, at, names), equation=f"{','.join(terms)}->{to}")

    def channel_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the rank's axis; of the last stage only where the one letter that is kept comes last in the output."""
        equation = self._equation(call)
        alike = len(equation.kept) == 1 and equation.output == equation.rest + equation.kept
        return None if at.index == 0 or (at.last and not alike) else -1

    def input_axis(self, call: Call, at: StageSite) -> int | None:
        """Return the last axis where the one letter that is summed over is there, and the rest is the output's."""
        equation = self._equation(call)
        alike = len(equation.summed) == 1 and equation.data == equation.rest + equation.summed
        return -1 if alike else None

    def counts(self, node: onnx.NodeProto) -> bool:
        """Return whether there are two operands."""
        return len(node.input) == 2

    def macs(self, node: onnx.NodeProto, left: Sequence[int], right: Sequence[int], out: Sequence[int]) -> float:
        """Return the product of all extents."""
        return einsum_macs(attributes_of(node)["equation"], left, right)


def _matrix(array: Array, letters: str, rows: str, columns: str) -> Array:
    """Return an array with these axes as (rows, columns)."""
    width = math.prod(array.shape[letters.index(c)] for c in columns)
    return np.transpose(array, [letters.index(c) for c in rows + columns]).reshape(-1, width)
