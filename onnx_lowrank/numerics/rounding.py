"""The stable rule: numbers that differ by rounding alone count as equal, so that rounding decides nothing.

Another processor, BLAS kernel or number of threads moves the last digits of every loss. Losses come from products of
float32 numbers, so a relative 1e-6 is below what they say; whatever compares losses compares them like this first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.types import Array

BITS = 22
"""Binary digits that count: a value moves by no more than 2.4e-7 of itself."""
SAME = 2.0 ** (1 - BITS)
"""Relative: values this close may be one that was rounded both ways. Their step at most."""

CLOSE = 1e-3
"""Sums of logarithms over ranks count as equal within this, for every rank: a thousandth of the average loss."""


def rounded(values: Array) -> Array:
    """Return the values to BITS binary digits each, whatever their size; 0 and infinities stay."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0**BITS), exponent - BITS))


def not_above(value: float, other: float) -> bool:
    """Return whether a value is at most another, or larger by rounding alone."""
    return value <= other + SAME * abs(other)


def first_least(values: Sequence[float], slack: float) -> int:
    """Return the first of those that are within `slack` of the least: noise does not choose among them."""
    least = min(values)
    return next((i for i, value in enumerate(values) if value <= least + slack), 0)
