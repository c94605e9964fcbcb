"""What the intake hands over: Samples, one set ready to run, and Split, the sets of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.types import Array, Feed
from onnx_lowrank.types.words import counted

T = TypeVar("T")


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when they are asked for and not kept; a slice of it is lazy, too."""

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._length = length
        self._make = make

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        chosen = range(self._length)[index]
        if isinstance(chosen, int):
            return self._make(chosen)
        return pick(self, chosen)


def pick(items: Sequence[T], indices: Sequence[int]) -> Lazy[T]:
    """Return the items at `indices`, in that order, without making any of them."""
    return Lazy(len(indices), lambda position: items[indices[position]])


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """One set of samples; every feed is ready to run: batch axis, shape and number type are the model's.

    `feeds` may be lazy (read or sliced on each access), so a loop over it holds one sample at a time. `labels` holds
    one label a sample, or is None. `hashes` are those of the inputs alone. `notes` say what was done to the data.
    `groups` name the source of every sample, equal where they share one; None where each has its own.
    """

    feeds: Sequence[Feed]
    labels: Sequence[Any] | Array | None
    source: str
    hashes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.hashes) != len(self.feeds):
            raise ValueError(f"{len(self.hashes)} hashes for {len(self.feeds)} samples")
        if self.labels is not None and len(self.labels) != len(self.feeds):
            raise DataError(
                f"{self.source}: {counted(len(self.labels), 'label')} for {counted(len(self.feeds), 'sample')};"
                " give one label a sample"
            )

    def __len__(self) -> int:
        return len(self.feeds)

    def subset(self, indices: Sequence[int], source: str | None = None) -> Samples:
        """Return the samples at `indices`, in that order; feeds stay lazy."""
        chosen = [int(index) for index in indices]
        labels = self.labels
        if labels is not None:
            labels = labels[np.asarray(chosen, int)] if isinstance(labels, np.ndarray) else [labels[i] for i in chosen]
        return Samples(
            feeds=pick(self.feeds, chosen),
            labels=labels,
            source=self.source if source is None else source,
            hashes=tuple(self.hashes[i] for i in chosen),
            notes=self.notes,
            groups=None if self.groups is None else tuple(self.groups[i] for i in chosen),
        )

    @property
    def group_numbers(self) -> Array | None:
        """(n,) the number of every sample's group, from 0; None where each sample is its own."""
        if self.groups is None:
            return None
        numbers = {name: index for index, name in enumerate(dict.fromkeys(self.groups))}
        return np.array([numbers[name] for name in self.groups])

    @property
    def units(self) -> int:
        """How many independent samples there are."""
        return len(self) if self.groups is None else len(set(self.groups))

    @property
    def identity(self) -> str:
        """The hash of the set in its order: of inputs, labels and groups."""
        labels = [None] * len(self) if self.labels is None else [np.asarray(label).tolist() for label in self.labels]
        digest = hashlib.sha256()
        for each in zip(self.hashes, labels, self.groups or [None] * len(self), strict=True):
            digest.update(repr(each).encode())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """The hash of the set, whatever its order: of all inputs and labels."""
        labels = [None] * len(self) if self.labels is None else [np.asarray(label).tolist() for label in self.labels]
        lines = sorted(f"{digest} {label!r}" for digest, label in zip(self.hashes, labels, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The sets of a run: what is collected on, what a candidate is gated on, and what the report is measured on.

    `screening` is a part of the calibration samples that nothing is fitted on: what plans are proposed by. `notes` are
    sentences for the user: how the sets came about, and what was done to the data.
    """

    calibration: Samples
    validation: Samples
    test: Samples | None = None
    notes: tuple[str, ...] = ()
    screening: Samples | None = None

    @property
    def held_back(self) -> Sequence[Feed]:
        """The feeds that nothing is fitted on; none where there are too few samples."""
        return () if self.screening is None else self.screening.feeds
