"""What a source of rows hands over: one mapping a sample, made when it is asked for, and a label where there is one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from onnx_lowrank.errors import DataError

Row = Mapping[str, Any]
"""Column -> value. A picture or a sound is the path of its file, or its bytes; a text is a str."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a source; `rows` may be lazy, and `places` name each for errors.

    labels: one a row, as stored: a class name, a number, or None where the source has none.
    columns: the names that every row has.
    """

    source: str
    rows: Sequence[Row]
    columns: tuple[str, ...]
    labels: Sequence[Any] | None
    places: Callable[[int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table are read. data: in the order in which the model takes them; empty: guessed.

    label: the column of labels; None: `label` or `labels`, if there is one.
    """

    data: tuple[str, ...] = ()
    label: str | None = None


Open = Callable[[Path, Columns], Rows]
"""Returns the rows of a source. Raises DataError, one line, for what is wrong with it."""


@dataclass(frozen=True, slots=True)
class RowSource:
    """One form in which rows are stored. form: for errors. takes: whether a path is of it; reads no file's content."""

    form: str
    takes: Callable[[Path], bool]
    open: Open


def needed(module: str, what: str, extra: str) -> ModuleType:
    """Return an optional package's module. Raises DataError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(
            f"{what} needs {package}, which is not installed: pip install 'onnx-lowrank[{extra}]'"
        ) from error
