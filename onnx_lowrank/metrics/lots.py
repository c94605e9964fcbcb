"""Small samples that are looked at together: of few scores a call of numpy costs more than the scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

from onnx_lowrank.types import Array

T = TypeVar("T")

LOT, SMALL = 256, 4096
"""Samples that are looked at together, at most, and elements of one, at most."""


def lots(items: Sequence[T] | Iterator[T]) -> Iterator[list[T]]:
    """Yield the items in their order, LOT of them at a time."""
    ahead = iter(items)
    while lot := list(islice(ahead, LOT)):
        yield lot


def alike(samples: Sequence[Array]) -> bool:
    """Return whether samples are small and of one shape, with an axis for samples, and one floating-point type."""
    first = samples[0]
    if first.ndim < 2 or not 0 < first.size <= SMALL or first.dtype.kind != "f":
        return False
    return all(each.shape == first.shape and each.dtype == first.dtype for each in samples)
