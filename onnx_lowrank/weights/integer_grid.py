"""Numbers as integers: w = scale · (q − zero), one scale for a whole factor or one for each of its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_lowrank.types import Array, NumberFormat
from onnx_lowrank.types.number_formats import SCALE_DIGITS, WHOLE

REDUCED = 64
"""Symmetric integers that go no further use seven bits: onnxruntime's `reduce_range`, for CPUs that saturate."""

ROUGH = 2.0**-6
"""The share of the smallest normal half-precision number down to which a scale is at most 1/32 off."""
RANGE = 2.0**-13
"""The least scale of eight bits, as a share of the largest of a weight: below, numbers are 0."""
ON_GRID = 1e-2
"""Steps that numbers on a grid may be off it: a scale in half precision is rounded."""
FOUR = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
SHARES = {7: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7), 1: (1.0, -1.0, *FOUR, *(-share for share in FOUR))}
"""Largest integer -> the scales that are tried, as shares of the one by which the largest number gets it; with more
steps that one serves. Two bits have one more integer below 0, so there the sign says which side it is on."""


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """q: like the numbers, whole. scale, zero: one, or one for each channel (n,) or block (out, blocks, *spatial)."""

    q: Array
    scale: Array
    zero: Array


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers that represent a weight's numbers.

    low, high: the integers used. zero: the zero point of all of them, None: each scale has its own. axis: of
    (out, in, *spatial), the one with a scale for each channel, None: one scale for all. scale: the scales' type. block:
    so many neighbours along the axis have a scale, wherever they are on the others; where there are no more, all that
    is on the other axis's channel. bare: no zero points are stored, all are 0. digits: of scales that have so many
    significant binary digits, 0: all of their type.
    """

    low: int
    high: int
    zero: int | None
    axis: int | None
    scale: type[Any] = np.float32
    block: int = 0
    bare: bool = False
    digits: int = 0

    @staticmethod
    def symmetric(number: NumberFormat, *, looked_up: bool = False, rows: bool = False) -> Grid:
        """Return the grid of a number format; looked_up, rows: of a table, like `NumberFormat.bytes`."""
        axis, run = number.axis(looked_up=looked_up), number.run(rows=rows)
        whole = number.bits == WHOLE
        scale = np.float16 if run and (rows or whole) else np.float32
        digits = SCALE_DIGITS if run and not rows and not whole else 0
        return Grid(number.low, number.high, 0, axis, scale, block=run, bare=True, digits=digits)

    @property
    def compensated(self) -> bool:
        """Whether errors of rounding are made up for: see `NumberFormat`."""
        return self.block > 0 and self.high < 2 ** (WHOLE - 1) - 1

    def at(self, shape: Sequence[int]) -> Grid:
        """Return the grid of a factor (out, in, *spatial): of no more numbers than a block, channels have a scale."""
        if self.block and self.axis is not None and shape[self.axis] <= self.block:
            return replace(self, axis=1 - self.axis, block=0)
        return self

    @staticmethod
    def of(q: Array, zero: Array, axis: int | None, scale: type[Any]) -> Grid:
        """Return the grid that a quantised weight was rounded to, as its integers and zero points show."""
        least, most = int(np.iinfo(q.dtype).min), int(np.iinfo(q.dtype).max)
        middles = {0} if least < 0 else {127, 128}
        points = {int(point) for point in np.unique(zero)}
        used = (int(q.min()), int(q.max())) if q.size else (0, 0)
        if len(points) == 1 and points <= middles:
            (middle,) = points
            span = REDUCED if max(middle - used[0], used[1] - middle) <= REDUCED else 127
            return Grid(middle - span, middle + span, middle, axis, scale)
        if used[1] - used[0] <= 2 * REDUCED:
            least, most = (-REDUCED, REDUCED) if least < 0 else (0, 2 * REDUCED - 1)
        return Grid(least, most, None, axis, scale)

    def quantised(self, weight: Array) -> Integers:
        """Return the nearest integers to a factor (out, in, *spatial); its largest number gets the largest one."""
        exact = np.asarray(weight, np.float64)
        if self.bare:  # of what stands in a file, so that scales do not hang on digits that it has not
            return self.at(exact.shape)._symmetric(np.asarray(exact, np.float32).astype(np.float64))
        others = None if self.axis is None else tuple(i for i in range(exact.ndim) if i != self.axis)
        low = np.minimum(exact.min(axis=others), 0.0)
        high = np.maximum(exact.max(axis=others), 0.0)
        if self.zero is not None:
            scale = self._usable(np.maximum(-low, high) / ((self.high - self.low) // 2))
            zero = np.full_like(scale, self.zero)
        else:
            scale = self._usable((high - low) / (self.high - self.low))
            zero = np.clip(np.rint(self.low - low / scale), self.low, self.high)
        q = np.rint(exact / self._along(scale, exact.ndim)) + self._along(zero, exact.ndim)
        return Integers(np.clip(q, self.low, self.high), scale, zero)

    def recovered(self, weight: Array) -> Integers:
        """Return the integers of numbers that stand on a symmetric grid already; the nearest ones where they do not."""
        exact = np.asarray(weight, np.float64)
        if (here := self.at(exact.shape)) is not self:
            return here.recovered(exact)
        nearest, largest = self.quantised(exact), self._scales(exact) * self.high
        scale, least = nearest.scale, np.full(largest.shape, ON_GRID)
        signed = self.low != -self.high
        for steps in [n for n in range(self.low if signed else 1, self.high + 1) if n]:  # of the largest number
            tried = self._usable(largest / abs(steps)) * (np.sign(self._signs(exact) * steps) if signed else 1.0)
            ratio = exact / self._spread(tried, exact.shape)
            off = self._over(np.abs(np.clip(np.rint(ratio), self.low, self.high) - ratio), np.maximum)
            scale, least = np.where(off < least, tried, scale), np.minimum(off, least)
        q = np.clip(np.rint(exact / self._spread(scale, exact.shape)), self.low, self.high)
        return Integers(q, scale, nearest.zero)

    def seen(self, weight: Array) -> Array:
        """Return the numbers that the integers of a factor represent, float64."""
        integers = self.quantised(weight)
        if self.bare:
            return np.asarray(integers.q * self.at(weight.shape)._spread(integers.scale, weight.shape), np.float64)
        shifted = integers.q - self._along(integers.zero, weight.ndim)
        return np.asarray(shifted * self._along(integers.scale, weight.ndim), np.float64)

    def _symmetric(self, exact: Array) -> Integers:
        """Return the integers of every channel or block by the scale that leaves the least squared error."""
        best = self._usable(self._scales(exact))
        least = np.full(best.shape, np.inf)
        for share in SHARES.get(self.high, (1.0,)):
            scale = self._usable(self._scales(exact) * abs(share)) * np.sign(share)
            wide = self._spread(scale, exact.shape)
            lost = self._summed((np.clip(np.rint(exact / wide), self.low, self.high) * wide - exact) ** 2)
            best, least = np.where(lost < least, scale, best), np.minimum(lost, least)
        q = np.clip(np.rint(exact / self._spread(best, exact.shape)), self.low, self.high)
        return Integers(q, best, np.zeros_like(best))

    def _signs(self, exact: Array) -> Array:
        """Return the sign of the largest number of every channel or block; of both signs the positive one."""
        return np.where(self._over(exact, np.maximum) >= -self._over(exact, np.minimum), 1.0, -1.0)

    def _scales(self, exact: Array) -> Array:
        """Return the scale by which the largest number of a channel or block gets the largest integer."""
        return self._over(np.abs(exact), np.maximum) / self.high

    def _summed(self, values: Array) -> Array:
        return self._over(values, np.add)

    def _over(self, values: Array, combine: np.ufunc) -> Array:
        """Return one number for each channel, or for each block: of blocks along the axis."""
        axis = self.axis or 0
        if self.block:
            starts = np.arange(0, values.shape[axis], self.block)
            return np.asarray(combine.reduceat(values, starts, axis=axis))
        return np.asarray(combine.reduce(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1), axis=1))

    def _spread(self, scale: Array, shape: tuple[int, ...]) -> Array:
        """Return the scale of every number."""
        if self.block:
            axis = self.axis or 0
            return np.take(scale, np.arange(shape[axis]) // self.block, axis=axis)
        return self._along(scale, len(shape))

    def _usable(self, scale: Array) -> Array:
        """Round to the scales' type; a channel of zeros, or of numbers too small for it, has scale 1.

        Of half precision the larger half of its subnormal numbers serves as well: there weights are small themselves.
        Of a few digits those that are too small beside the largest have that one's scale, and are zeros by it.
        """
        kind = np.finfo(self.scale)
        least = float(kind.tiny) * (ROUGH if self.scale is np.float16 else 1.0)
        rounded = np.asarray(np.minimum(scale, float(kind.max)), self.scale).astype(np.float64)
        if not self.digits:
            return np.where(rounded < least, 1.0, rounded)
        parts, exponents = np.frexp(rounded)
        short = np.ldexp(np.rint(parts * 2.0**self.digits) / 2.0**self.digits, exponents)
        largest = float(short.max(initial=0.0))
        return np.where(short < max(least, RANGE * largest), largest if largest >= least else 1.0, short)

    def _along(self, values: Array, dimensions: int) -> Array:
        if self.axis is None:
            return values
        return values.reshape([-1 if i == self.axis else 1 for i in range(dimensions)])
