"""Numbers of a table: columns named as inputs go there, otherwise all of them, in order, into the only input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import listed, shape_text
from onnx_lowrank.samples.formats.format import Encoder, single_input
from onnx_lowrank.samples.rows.row import Row
from onnx_lowrank.types import Array
from onnx_lowrank.types.words import counted, verb


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFormat:
    """Columns of numbers as they are; nothing is scaled."""

    def fitted(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> Encoder:
        """Return what makes rows fit the model's inputs. Raises DataError where there are other numbers of them."""
        names = [spec.name for spec in inputs]
        if set(names) == set(columns):
            return Encoder(lambda row, place: {spec.name: _number(row, [spec.name], spec, place) for spec in inputs})
        spec = single_input(inputs, "columns", source)
        width = spec.shape[-1] if spec.shape else None
        if len(spec.shape) != 2 or (isinstance(width, int) and width != len(columns)):
            raise DataError(
                f"{source}: input {spec.name!r} takes {shape_text(spec)}, and there"
                f" {verb(len(columns), 'is', 'are')} {counted(len(columns), 'column')} ({listed(columns)}):"
                " name those that count with --column, and the labels' with --label-column"
            )
        are = verb(len(columns), " is", ", in their order, are")
        note = f"{source}: {counted(len(columns), 'column')}{are} input {spec.name!r}; nothing is scaled"
        return Encoder(lambda row, place: {spec.name: _number(row, columns, spec, place)}, (note,))


def _number(row: Row, columns: Sequence[str], spec: TensorSpec, place: str) -> Array:
    values: list[Any] = []
    for name in columns:
        value = row[name]
        try:
            values.append(float(value) if isinstance(value, str) else value)
        except ValueError:
            raise DataError(
                f"{place}: column {name!r} holds {value[:40]!r}, no number; encode it as the model was trained on,"
                " or name the columns that count with --column"
            ) from None
    if len(columns) == 1 and isinstance(values[0], list):
        return np.asarray(values[0], spec.dtype)[np.newaxis]
    return np.asarray(values, spec.dtype).reshape(1, -1)
