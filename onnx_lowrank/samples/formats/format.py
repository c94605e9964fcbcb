"""What a format is: fitted to a model's inputs and a source's columns, it turns rows into arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import listed, shape_text
from onnx_lowrank.samples.rows.row import Row
from onnx_lowrank.types import Array

Encode = Callable[[Row, str], dict[str, Array]]
"""Returns the arrays of a row, whose place begins errors. Raises DataError for a row that is no such thing."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """A format that fits a model and a source. notes: what was assumed, a sentence each. labels: makes a sample's label
    of its arrays, where the source has none of its own. windows: with such labels, all samples of a row that is longer
    than one may be (at least one).
    """

    encode: Encode
    notes: tuple[str, ...] = ()
    labels: Callable[[dict[str, Array]], Array] | None = None
    windows: Callable[[Row, str], list[dict[str, Array]]] | None = None


class Format(Protocol):
    """A way to turn rows into arrays."""

    def fitted(self, inputs: Sequence[TensorSpec], columns: Sequence[str], source: str) -> Encoder:
        """Return the encoder for these inputs and columns. Raises DataError where they do not suit."""
        ...


def only(items: Sequence[Any], what: str, source: str, mend: str) -> Any:
    """Return the only one of `items`. Raises DataError where there are none or several."""
    if len(items) != 1:
        raise DataError(f"{source}: {what}; {mend}")
    return items[0]


def single_input(inputs: Sequence[TensorSpec], medium: str, source: str) -> TensorSpec:
    """Return the model's only input. Raises DataError for a model with several."""
    told = ", ".join(f"{spec.name!r} {shape_text(spec)}" for spec in inputs)
    return only(  # type: ignore[no-any-return]
        inputs, f"{medium} go into a model of one input, and this takes {told}", source,
        "give an .npz a sample, or FILE.py that yields dicts",
    )  # fmt: skip


def column_of(columns: Sequence[str], names: Sequence[str], medium: str, source: str) -> str:
    """Return the column of a medium: the only one, or the first of a usual name. Raises DataError where unclear."""
    if len(columns) == 1:
        return columns[0]
    usual = [name for name in names if name in columns]
    if not usual:
        raise DataError(f"{source}: which column holds the {medium}? it has {listed(columns)}: name it with --column")
    return usual[0]
