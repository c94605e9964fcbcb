"""Samples from Python: any iterable of dicts, or of (dict, label), and onnxruntime's CalibrationDataReader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.reader import Reader
from onnx_lowrank.samples.records import Raw, Record, record
from onnx_lowrank.samples.stacked import stacked


@runtime_checkable
class DataReader(Protocol):
    """What onnxruntime's quantisation tools read: `get_next` returns a feed, and None after the last."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next sample's feed, None when there is none left."""
        ...


PythonSource: TypeAlias = DataReader | Mapping[str, Any] | Iterable[Any]
"""Samples in Python: a reader, arrays that hold all samples on their leading axis, or one item a sample."""


def from_python(source: PythonSource, inputs: Sequence[TensorSpec], name: str) -> Raw:
    """Return the samples of an object, which errors and reports call `name`.

    What can be walked only once is copied, as its buffers may be used again.
    """
    if isinstance(source, DataReader):
        return _walk(iter(source.get_next, None), inputs, name, copy=True)
    if isinstance(source, Mapping):
        return stacked(source, inputs, name)
    if isinstance(source, np.ndarray) and len(inputs) == 1:
        return stacked({inputs[0].name: source}, inputs, name)
    return _walk(source, inputs, name, copy=not isinstance(source, Sequence))


def _walk(items: Iterable[Any], inputs: Sequence[TensorSpec], name: str, *, copy: bool) -> Raw:
    return Raw(name, [_record(item, inputs, f"{name}: sample #{i}", copy) for i, item in enumerate(items)])


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


def _takes(source: Any) -> bool:
    if isinstance(source, str | Path):
        return False
    return isinstance(source, DataReader | Mapping) or hasattr(source, "__iter__")


PYTHON = Reader(
    name="python",
    form="an iterable of dicts or a CalibrationDataReader",
    takes=_takes,
    read=lambda source, inputs: from_python(source, inputs, f"the {type(source).__name__} given"),
    is_path=False,
)
