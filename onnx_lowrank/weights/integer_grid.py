"""Numbers as integers: w = scale · (q − zero), one scale for a whole factor or one for each of its channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_lowrank.types import Array

REDUCED = 64
"""Symmetric integers that go no further use seven bits: onnxruntime's `reduce_range`, for CPUs that saturate."""


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """q: like the numbers, whole numbers. scale, zero: one, or one for each channel (n,)."""

    q: Array
    scale: Array
    zero: Array


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers that represent a weight's numbers.

    low, high: the integers used. zero: the zero point of all of them, None: each scale has its own. axis: of
    (out, in, *spatial), the one with a scale for each channel, None: one scale for all. scale: the scales' type.
    """

    low: int
    high: int
    zero: int | None
    axis: int | None
    scale: type[Any] = np.float32

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

    def seen(self, weight: Array) -> Array:
        """Return the numbers that the integers of a factor represent, float64."""
        integers = self.quantised(weight)
        shifted = integers.q - self._along(integers.zero, weight.ndim)
        return np.asarray(shifted * self._along(integers.scale, weight.ndim), np.float64)

    def _usable(self, scale: Array) -> Array:
        """Round to the scales' type; a channel of zeros, or of numbers too small for it, has scale 1."""
        rounded = np.asarray(scale, self.scale).astype(np.float64)
        return np.where(rounded < float(np.finfo(self.scale).tiny), 1.0, rounded)

    def _along(self, values: Array, dimensions: int) -> Array:
        if self.axis is None:
            return values
        return values.reshape([-1 if i == self.axis else 1 for i in range(dimensions)])
