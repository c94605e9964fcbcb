"""Samples from Python: iterables of dicts or tuples, with labels or without; onnxruntime's and torch's readers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.reader import Reader
from onnx_lowrank.samples.records import Raw, Record, record
from onnx_lowrank.samples.stacked import stacked
from onnx_lowrank.types.words import counted, verb


@runtime_checkable
class DataReader(Protocol):
    """What onnxruntime's quantisation tools read: `get_next` returns a feed, and None after the last."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next sample's feed, None when there is none left."""
        ...


PythonSource: TypeAlias = DataReader | Mapping[str, Any] | Iterable[Any]
"""Samples in Python: a reader, arrays that hold all samples on their leading axis, or one item a sample."""


BATCH = re.compile(r"n|b|.*batch.*", re.IGNORECASE)
"""Names of a free first axis that holds samples."""


def from_python(source: PythonSource, inputs: Sequence[TensorSpec], name: str) -> Raw:
    """Return the samples of an object, which errors and reports call `name`.

    What can be walked only once is copied, as its buffers may be used again. Batches with one label a row, and those of
    a torch DataLoader, are taken apart.
    """
    if isinstance(source, DataReader):
        return _walk(iter(source.get_next, None), inputs, name, copy=True)
    if isinstance(source, Mapping):
        return stacked(source, inputs, name)
    if isinstance(source, np.ndarray) and len(inputs) == 1:
        return stacked({inputs[0].name: source}, inputs, name)
    loader = getattr(source, "batch_size", None) is not None
    items: Any = source
    if not hasattr(source, "__iter__"):
        items = _indexed(source)
    return _walk(items, inputs, name, copy=not isinstance(source, Sequence), loader=loader)


def _indexed(source: Any) -> Iterator[Any]:
    """Yield the items of what has a length and places, and no more: a Dataset of torch, say."""
    return (source[i] for i in range(len(source)))


def _walk(items: Iterable[Any], inputs: Sequence[TensorSpec], name: str, *, copy: bool, loader: bool = False) -> Raw:
    given = [_record(item, inputs, f"{name}: sample #{i}", copy) for i, item in enumerate(items)]
    taken = [_taken_apart(made, inputs, loader) for made in given]
    records = [one for rows in taken for one in rows]
    batches = sum(len(rows) > 1 for rows in taken)
    made = f"{counted(len(given), 'item')} {verb(len(given), 'is', 'are')} {counted(len(records), 'sample')}"
    note = f"{name}: batches are taken apart, {made}"
    return Raw(name, records, notes=(note,) if batches else ())


def _taken_apart(made: Record, inputs: Sequence[TensorSpec], loader: bool) -> list[Record]:
    """Return the samples of a batch, a row each; an item that is one sample as it is.

    A batch comes from a DataLoader, or has a label for every row of a first axis that is named like one.
    """
    arrays = {spec.name: made.arrays.get(spec.name) for spec in inputs}
    shapes: list[tuple[int, ...]] = [() if array is None else np.shape(array) for array in arrays.values()]
    whole = all(len(shape) == len(spec.shape) and shape for shape, spec in zip(shapes, inputs, strict=True))
    if not whole or len({shape[0] for shape in shapes}) > 1 or len(made.arrays) != len(inputs):
        return [made]
    rows = next((shape[0] for shape in shapes), 0)
    labelled = np.shape(made.label)[:1] == (rows,)
    free = all(not isinstance(spec.shape[0], int) or spec.shape[0] == 1 for spec in inputs)
    called = all(isinstance(spec.shape[0], str) and BATCH.fullmatch(spec.shape[0]) for spec in inputs)
    if rows < 1 or not free or not (labelled if made.label is not None else loader) or not (loader or called):
        return [made]
    labels = np.asarray(made.label) if made.label is not None else [None] * rows
    return [
        Record({name: np.asarray(array)[i : i + 1] for name, array in arrays.items()}, labels[i]) for i in range(rows)
    ]


def _record(item: Any, inputs: Sequence[TensorSpec], place: str, copy: bool) -> Record:
    item, label = _named(item, inputs)
    if not isinstance(item, Mapping):
        raise DataError(
            f"{place} is a {type(item).__name__}; give a dict of input name -> array, a pair (dict, label), or a tuple"
            " of one array an input, and perhaps a label"
        )
    made = record(
        {name: np.array(value) if copy and isinstance(value, np.ndarray) else value for name, value in item.items()},
        inputs,
    )
    if label is not None and made.label is not None:
        raise DataError(f"{place} has two labels, in its dict and beside it; leave one of them out")
    return made if label is None else Record(made.arrays, label)


def _named(item: Any, inputs: Sequence[TensorSpec]) -> tuple[Any, Any]:
    """Return an item as (dict, label): tuples of tensors are in the order of the inputs, and then the label."""
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) == 2 and isinstance(item[0], Mapping):
        return item[0], item[1]
    if len(item) not in (len(inputs), len(inputs) + 1) or not all(hasattr(v, "shape") for v in item[: len(inputs)]):
        return item, None
    arrays = {spec.name: value for spec, value in zip(inputs, item, strict=False)}
    return arrays, item[-1] if len(item) > len(inputs) else None


def _takes(source: Any) -> bool:
    if isinstance(source, str | Path):
        return False
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return isinstance(source, DataReader | Mapping) or hasattr(source, "__iter__") or indexed


PYTHON = Reader(
    name="python",
    form="an iterable of dicts or tuples, a DataLoader or a CalibrationDataReader",
    takes=_takes,
    read=lambda source, inputs: from_python(source, inputs, f"the {type(source).__name__} given"),
    is_path=False,
)
