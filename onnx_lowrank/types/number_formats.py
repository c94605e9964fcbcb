"""How the numbers of a weight or its factors may be stored besides as they are: halves, or integers with scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnx_lowrank.types.chains import Layout
from onnx_lowrank.types.forms import OWN

HALF, WHOLE = 16, 8
"""Bits of floats of half precision, and of integers that fill a byte."""
SCALE_BYTES, ROW_SCALE_BYTES, BLOCK_SCALE_BYTES = 4, 2, 1
"""A scale is a float32; those of few bits have eight, as there are many, and those of a table that is looked up half
precision: onnxruntime looks up nothing shorter but integers. So have those of blocks of bytes: numbers that have been
rounded to them are rounded to them again."""
SCALE_DIGITS = 4
"""Significant binary digits of a scale of eight bits: float8e4m3fn, with one power of two for all of a weight."""
SHORT = 32
"""So few scales are floats: what makes them of eight bits takes as many bytes."""
ROW_BLOCK = 128
"""The block of a table that is looked up: a row of it, as a rule, so that what is looked up is multiplied once."""
PACKED = 2**22
"""A weight of so many numbers stays in its format in memory; of fewer, they are unpacked when a model is loaded."""
COLUMN_BYTES = 4
"""The number of the block of each column of a table, an int32."""

Activations: TypeAlias = Literal["", "static", "dynamic"]
"""How what a weight is multiplied by becomes integers: not at all, in a range that is known, or found each time."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """Integers of `bits`, one scale for every `block` inputs of an output; block 0: one for each output; or halves.

    With no more inputs than a block has, an output has one scale for all taps. A table that is looked up, and its
    factors, have inputs and outputs the other way round: what is read is a row, and blocks of it are longer.

    opset: the first that has what unpacks them. name: what a form's `storage` says. outputs: what the number of a
    stage's outputs is a multiple of, where it stays packed: onnxruntime 1.31 computes other numbers where several share
    a byte of two bits each. activations: where they are integers as well the operator multiplies integers, which takes
    less time; else weights alone are smaller.
    """

    name: str
    bits: int
    block: int
    opset: int
    outputs: int = 1
    activations: Activations = ""

    def fits(self, layout: Layout, *, looked_up: bool = False) -> bool:
        """Return whether every stage of a chain can be stored so; looked_up: the first one is a table of rows."""
        return all(self.takes(shape) for shape, _ in layout[int(looked_up) :])

    def takes(self, shape: Sequence[int]) -> bool:
        """Return whether a stage (out, in, *spatial) can be stored so, unless rows of it are looked up."""
        return shape[0] % self.outputs == 0 or math.prod(shape) < PACKED

    @property
    def floating(self) -> bool:
        """Whether numbers are floats of half precision, without scales."""
        return self.bits == HALF

    @property
    def compensated(self) -> bool:
        """Whether errors of rounding are made up for by other numbers: where they are large enough to be worth it."""
        return self.block > 0 and self.bits < WHOLE

    @property
    def split(self) -> int:
        """The lowest bits that a second tensor holds, 0 for none: those of integers that fill more than a byte."""
        return 0 if self.floating else max(self.bits - WHOLE, 0)

    @property
    def high(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def low(self) -> int:
        """The smallest integer: symmetric but for two bits, whose four numbers all count; there scales have a sign."""
        return -2 if self.bits == 2 else -self.high

    def run(self, *, rows: bool = False) -> int:
        """Return the numbers of a block, 0 where there are none; rows: of a table, or the first of its factors."""
        return ROW_BLOCK if rows and self.block else self.block

    def axis(self, *, looked_up: bool = False) -> int:
        """Return the axis of (out, in, *spatial) that has scales: a channel each, or a block of neighbours each."""
        return int(bool(self.block) != looked_up)

    def bytes(self, shape: Sequence[int], *, looked_up: bool = False, rows: bool = False) -> int:
        """Return the bytes of a stage (out, in, *spatial) and its scales.

        looked_up: of a table that is looked up, or of a factor of one. rows: the table itself, or the first of its
        factors, of which every row begins with a byte, and every column has the number of its block.
        """
        if self.floating:
            return math.prod(shape) * self.bits // 8
        axis, run = self.axis(looked_up=looked_up), self.run(rows=rows)
        if run and shape[axis] <= run:
            axis, run = 1 - axis, 0
        scales = shape[axis]
        if run:
            scales = math.ceil(shape[axis] / run) * math.prod(n for i, n in enumerate(shape) if i != axis)
        integers = math.ceil(math.prod(shape) * self.bits / 8)
        if rows:
            integers = math.prod(shape[1:]) * math.ceil(shape[0] * self.bits / 8)
            integers += COLUMN_BYTES * shape[0] if run else 0
        short = ROW_SCALE_BYTES if self.bits == WHOLE else BLOCK_SCALE_BYTES
        width = ROW_SCALE_BYTES if rows else SCALE_BYTES if scales < SHORT else short
        return integers + (width if self.block else SCALE_BYTES) * scales


FLOAT16 = NumberFormat("float16", HALF, 0, 13)
INT12 = NumberFormat("int12", 12, 0, 21)
INT8 = NumberFormat("int8", WHOLE, 0, 13)
INT8_BLOCKS = NumberFormat("int8-blocks", WHOLE, 32, 21)
INT4 = NumberFormat("int4", 4, 32, 21)
INT2 = NumberFormat("int2", 2, 32, 25, outputs=4)
FORMATS = {each.name: each for each in (FLOAT16, INT12, INT8, INT8_BLOCKS, INT4, INT2)}
"""By name, those of weights alone; the more bits the earlier."""
INT8_STATIC = NumberFormat("int8-static", 8, 0, 13, activations="static")
INT8_DYNAMIC = NumberFormat("int8-dynamic", 8, 0, 13, activations="dynamic")
ARITHMETIC = {each.name: each for each in (INT8_STATIC, INT8_DYNAMIC)}
"""By name, those in which operators multiply integers."""


EACH = "/"
"""Between the formats of a chain's stages, where they differ."""


def stage_formats(storage: str, stages: int) -> tuple[NumberFormat | None, ...]:
    """Return the format of each of some stages, None where it is the weight's own: one name is that of all.

    Raises KeyError for an unknown one, and ValueError where there are as many as stages of another chain.
    """
    names = storage.split(EACH)
    if len(names) == 1:
        names *= stages
    if len(names) != stages:
        raise ValueError(f"{storage!r} has formats of {len(names)} stages, and there are {stages}")
    known = FORMATS | ARITHMETIC
    return tuple(None if name == OWN else known[name] for name in names)


def formats_in(storage: str) -> tuple[NumberFormat, ...]:
    """Return the formats that are named, without the weight's own. Raises KeyError for an unknown one."""
    return tuple(n for n in stage_formats(storage, len(storage.split(EACH))) if n is not None)
