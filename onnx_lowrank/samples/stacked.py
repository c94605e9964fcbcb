"""Arrays that hold all samples along their leading axis: an .npz, an .npy, a dict of arrays.

An array of the input's rank is cut into samples along its leading axis, a row each (or as many rows as a model with
a fixed batch takes at a time); an array with one axis more holds on that axis samples that are fed as they are.
A scalar input takes an array of rank 1, or one value for all samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import as_array, check_inputs, check_names, shape_text
from onnx_lowrank.samples.records import LABELS, Raw, Record, record
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Array
from onnx_lowrank.types.words import counted, verb


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """How an array falls into samples: `rows` at a time, or (0) an index away; count None means the same for all."""

    array: Array
    rows: int = 0
    count: int | None = None

    def __getitem__(self, index: int) -> Array:
        if self.count is None:
            return self.array
        return self.array[index * self.rows : (index + 1) * self.rows] if self.rows else self.array[index, ...]


def stacked(arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], source: str) -> Raw:
    """Return the samples of arrays that hold all of them. Raises DataError where they do not fall into samples."""
    check_inputs(inputs)
    whole = record(arrays, inputs)
    check_names(whole.arrays, inputs, source)
    cuts = {spec.name: _cut(as_array(whole.arrays[spec.name], spec.name, source), spec, source) for spec in inputs}
    counts = {name: cut.count for name, cut in cuts.items() if cut.count is not None}
    if len(set(counts.values())) > 1:
        numbers = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise DataError(f"{source}: its inputs hold different numbers of samples ({numbers}); give as many of each")
    count = next(iter(counts.values()), 1)
    records = Lazy(count, lambda index: Record({name: cut[index] for name, cut in cuts.items()}))
    notes = tuple(dict.fromkeys(note for cut in cuts.values() for note in _leftover(cut, source)))
    return Raw(source, records, _labels(whole.label, count, cuts, source), notes=notes)


def _cut(array: Array, spec: TensorSpec, source: str) -> _Cut:
    rank = len(spec.shape)
    if array.dtype.hasobject and spec.type != "tensor(string)":
        raise DataError(
            f"{source}: {spec.name!r} is an array of Python objects; samples of different shapes go into a directory,"
            " one .npz a sample"
        )
    if rank == 0:
        if array.ndim == 0:
            return _Cut(array)
        return _Cut(array, 0 if array.ndim == 1 else 1, array.shape[0])
    if array.ndim == rank:
        first = spec.shape[0]
        rows = first if isinstance(first, int) and first > 1 else 1
        return _Cut(array, rows, array.shape[0] // rows)
    if array.ndim == rank + 1:
        return _Cut(array, 0, array.shape[0])
    raise DataError(
        f"{source}: input {spec.name!r} takes {shape_text(spec)}, and the array is {list(array.shape)};"
        f" give {rank} axes, samples along the first, or {rank + 1}, one for the samples and then the model's"
    )


def _leftover(cut: _Cut, source: str) -> list[str]:
    """Return a note on the rows that do not fill a batch. Raises DataError where there is no full one."""
    if cut.rows <= 1:
        return []
    held = cut.array.shape[0]
    if held < cut.rows:
        raise DataError(
            f"{source}: {counted(held, 'row')}, and the model takes {cut.rows} at a time; give at least {cut.rows}"
        )
    rest = held % cut.rows
    which = verb(rest, f"the last of {held} rows is", f"the last {rest} of {held} rows are")
    return [f"{source}: {which} left out, the model takes {cut.rows} at a time"] if rest else []


def _labels(labels: Any, count: int, cuts: Mapping[str, _Cut], source: str) -> Any:
    """Return one label a sample; labels of rows fall into samples as the rows do."""
    if labels is None:
        return None
    if hasattr(labels, "shape"):
        labels = as_array(labels, LABELS, source)
    if not hasattr(labels, "__len__") or np.shape(labels) == ():
        raise DataError(f"{source}: 'labels' is a single value; give one label a sample, along the leading axis")
    if len(labels) == count:
        return labels
    for cut in cuts.values():
        if cut.rows > 1 and len(labels) == cut.array.shape[0]:
            chunks = [labels[i * cut.rows : (i + 1) * cut.rows] for i in range(count)]
            return np.stack(chunks) if isinstance(labels, np.ndarray) else chunks
    raise DataError(
        f"{source}: {counted(len(labels), 'label')} for {counted(count, 'sample')}; give one label a sample"
    )
