"""What a reader hands to the intake: samples as their source holds them, not yet fitted to the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_lowrank.runtime.runner import TensorSpec

LABELS = "labels"
"""The key of the labels among the arrays, unless the model has an input of that name."""


@dataclass(frozen=True, slots=True)
class GroupSpec(TensorSpec):
    """The key, beside the inputs, of what samples have in common: a patient, a document, a photo."""


def with_groups(inputs: Sequence[TensorSpec], key: str | None) -> list[TensorSpec]:
    """Return what a set has to hold: the model's inputs and, where samples are grouped, the key of the groups."""
    return [*inputs, *([GroupSpec(key, "tensor(string)", ())] if key is not None else [])]


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One sample: input name -> array, and its label where the source holds both together (None: unlabelled)."""

    arrays: Mapping[str, Any]
    label: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """A set as its source holds it; `records` may be lazy.

    `labels` are those of all samples, where the source keeps them apart from the inputs; `files` are the places of
    the samples, where each has its own, `places` what errors call them; `notes` say what the reader did to the data.
    groups: names of what samples have in common, where the source knows of such.
    """

    source: str
    records: Sequence[Record]
    labels: Any = None
    files: Sequence[Path] | None = None
    notes: tuple[str, ...] = ()
    places: Callable[[int], str] | None = None
    groups: Sequence[str] | None = None

    def name(self, index: int) -> str:
        """Return what a user can find a sample by; samples are counted from 0."""
        return self.files[index].name if self.files is not None else f"#{index}"

    def place(self, index: int) -> str:
        """Return the beginning of an error about a sample."""
        if self.places is not None:
            return self.places(index)
        return str(self.files[index]) if self.files is not None else f"{self.source}: sample #{index}"


def record(arrays: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> Record:
    """Return the sample, its label taken from among the arrays."""
    if LABELS not in arrays or any(spec.name == LABELS for spec in inputs):
        return Record(arrays)
    return Record({key: value for key, value in arrays.items() if key != LABELS}, arrays[LABELS])
