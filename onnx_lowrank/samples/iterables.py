"""Samples from Python: any iterable of dicts, or of (dict, label), and onnxruntime's CalibrationDataReader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.records import Raw, Record, record
from onnx_lowrank.samples.stacked import stacked


@runtime_checkable
class DataReader(Protocol):
    """What onnxruntime's quantisation tools read: `get_next` returns a feed, and None after the last."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next sample's feed, None when there is none left."""
        ...


Given: TypeAlias = DataReader | Mapping[str, Any] | Iterable[Any]
"""Samples in Python: a reader, arrays that hold all samples on their leading axis, or one item a sample."""


def from_python(given: Given, inputs: Sequence[TensorSpec], source: str) -> Raw:
    """Return the samples of an object. What can be walked only once is copied, as its buffers may be used again."""
    if isinstance(given, DataReader):
        return _walk(iter(given.get_next, None), inputs, source, copy=True)
    if isinstance(given, Mapping):
        return stacked(given, inputs, source)
    if isinstance(given, np.ndarray) and len(inputs) == 1:
        return stacked({inputs[0].name: given}, inputs, source)
    return _walk(given, inputs, source, copy=not isinstance(given, Sequence))


def _walk(items: Iterable[Any], inputs: Sequence[TensorSpec], source: str, *, copy: bool) -> Raw:
    return Raw(source, [_record(item, inputs, f"{source}: sample #{i}", copy) for i, item in enumerate(items)])


def _record(item: Any, inputs: Sequence[TensorSpec], place: str, copy: bool) -> Record:
    label = None
    if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], Mapping):
        item, label = item
    if not isinstance(item, Mapping):
        raise DataError(
            f"{place} is a {type(item).__name__}; give a dict of input name -> array, or a pair (dict, label)"
        )
    made = record(
        {name: np.array(value) if copy and isinstance(value, np.ndarray) else value for name, value in item.items()},
        inputs,
    )
    if label is not None and made.label is not None:
        raise DataError(f"{place} has two labels, in its dict and beside it; leave one of them out")
    return made if label is None else Record(made.arrays, label)
