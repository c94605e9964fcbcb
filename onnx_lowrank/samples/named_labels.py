"""Labels that are names, in any form of samples: numbered in the order of the model's classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples.conform import nearest
from onnx_lowrank.samples.records import Raw
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.samples.stored import class_names
from onnx_lowrank.types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedLabels:
    """Samples of a source, a path or an object, whose labels are names of classes.

    classes: those of all classes in the order of the model's outputs, or a file of them, one a line (or a JSON list).
    Labels that are numbers stay as they are.
    """

    source: Any
    classes: Path | tuple[str, ...]

    def numbered(self, raw: Raw) -> Raw:
        """Return the samples with class numbers for names. Raises DataError, at its sample, for a name unknown."""
        names = class_names(self.classes) if isinstance(self.classes, Path) else self.classes
        order = _Order({name: number for number, name in enumerate(names)}, self.classes, raw)
        first = raw.records[0].label if raw.labels is None and len(raw.records) else None
        first = raw.labels[0] if raw.labels is not None and len(raw.labels) else first
        if first is not None and _texts(first) is None:
            note = f"{raw.source}: labels are numbers, and stay as they are: no name of {order.where} is needed"
            return replace(raw, notes=(*raw.notes, note))
        if raw.labels is not None:
            numbers = [order.number(label, index) for index, label in enumerate(raw.labels)]
            alike = len({np.shape(label) for label in numbers}) == 1
            return replace(raw, labels=np.stack(numbers) if alike else numbers)
        records = raw.records

        def numbered(index: int) -> Any:
            found = records[index]
            return found if found.label is None else replace(found, label=order.number(found.label, index))

        return replace(raw, records=Lazy(len(records), numbered))


@dataclass(frozen=True, slots=True)
class _Order:
    """The number of every name; `classes` is where they come from."""

    numbers: dict[str, int]
    classes: Path | tuple[str, ...]
    raw: Raw

    @property
    def where(self) -> str:
        """What errors call the names."""
        return str(self.classes) if isinstance(self.classes, Path) else "the classes given"

    def number(self, label: Any, index: int) -> Any:
        """Return a sample's label in numbers. Raises DataError."""
        names = _texts(label)
        if names is None:
            return label
        for name in names.ravel():
            if name not in self.numbers:
                raise DataError(
                    f"{self.raw.place(index)}: class {str(name)!r} is not in {self.where}"
                    f"{nearest(name, list(self.numbers))}; add it there, in the order of the model's outputs"
                )
        return np.array([self.numbers[name] for name in names.ravel()], np.int64).reshape(names.shape)


def _texts(label: Any) -> Array | None:
    """Return names as an array of text; None where a label holds anything else."""
    if not isinstance(label, str | bytes | list | tuple | np.ndarray | np.generic):
        return None
    try:
        array = np.asarray(label)
    except ValueError:
        return None
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind in "OT" and array.size and all(isinstance(value, str) for value in array.ravel()):
        return array.astype(np.str_)
    return array if array.dtype.kind == "U" else None
