"""How a tensor that goes to the file is rounded: its number format, and where its channels and blocks lie."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.types import Array, NumberFormat
from onnx_lowrank.weights.integer_grid import Grid, Integers


@dataclass(frozen=True, slots=True)
class InFormat:
    """How a stored tensor is to be rounded. order: for every axis of it, that of (out, in, *spatial). looked_up: it is
    a table of which rows are looked up, or a factor of one; rows: it is what the rows are looked up in. exact: its
    numbers stand on the grid already.
    """

    number: NumberFormat
    order: tuple[int, ...]
    looked_up: bool = False
    rows: bool = False
    exact: bool = False

    @property
    def blocks(self) -> int:
        """The axis of the stored tensor along which blocks, or channels, lie, from the end."""
        return self.order.index(self.number.axis(looked_up=self.looked_up)) - len(self.order)

    @property
    def grid(self) -> Grid:
        """The grid that numbers are rounded to."""
        return Grid.symmetric(self.number, looked_up=self.looked_up, rows=self.rows)

    def integers(self, weight: Array) -> Integers:
        """Return the integers and scales of (out, in, *spatial)."""
        return self.grid.recovered(weight) if self.exact else self.grid.quantised(weight)
