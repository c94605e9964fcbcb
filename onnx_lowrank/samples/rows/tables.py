"""Tables: CSV by the standard library, parquet, arrow and Hugging Face datasets on disk by pyarrow."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import first_line
from onnx_lowrank.samples.conform import listed
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.rows.row import Columns, Rows, RowSource, needed
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types.words import counted

LABELS = ("label", "labels")
"""Columns that are labels unless another is named."""
SEPARATED = {".csv": ",", ".tsv": "\t"}
COLUMNAR = (".parquet", ".arrow", ".feather")
DISK = "state.json"
"""The file that Hugging Face's `save_to_disk` writes beside the arrow files, and which names them."""


def open_separated(path: Path, columns: Columns) -> Rows:
    """Return the rows of a CSV or TSV with a header, as texts."""
    with readable(path, "save it as UTF-8, with a header"):
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, delimiter=SEPARATED[path.suffix.lower()], strict=True)
                header, *rows = list(reader) or [[]]
        except csv.Error as error:
            raise DataError(f"{path} is no table: {error}; save it again as CSV with a header") from error
    rows = [row for row in rows if row]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {counted(len(row), 'cell')}, and the header names"
                f" {counted(len(header), 'column')}"
            )
    if len(set(header)) != len(header):
        raise DataError(f"{path}: two columns have one name ({listed(header)}); rename one")
    values: dict[str, Sequence[Any]] = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    return _rows(path, values, len(rows), columns)


def open_columnar(path: Path, columns: Columns) -> Rows:
    """Return the rows of a parquet, feather or arrow file, or of a Hugging Face dataset on disk."""
    arrow = needed("pyarrow", f"reading {path}", "tables")
    files, kind = ([path], path.suffix.lower()) if path.is_file() else (_on_disk(path), ".arrow")
    with readable(path, "write it again"):
        try:
            tables = [_table(file, kind) for file in files]
            table = arrow.concat_tables(tables)
        except (arrow.ArrowException, OSError) as error:
            why = first_line(error)
            raise DataError(f"{path} cannot be read as {kind[1:]} ({why}); write it again") from error
    values: dict[str, Sequence[Any]] = {name: _Column(table.column(name)) for name in table.column_names}
    return _rows(path, values, table.num_rows, columns)


class _Column(Sequence[Any]):
    """A column of an arrow table, a value at a time."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        value = self._column[index].as_py()
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:  # how datasets store pictures and sounds
            return value["bytes"] if value["bytes"] is not None else Path(value["path"])
        return value


def _table(file: Path, kind: str) -> Any:
    if kind == ".parquet":
        return needed("pyarrow.parquet", f"reading {file}", "tables").read_table(file)
    ipc = needed("pyarrow.ipc", f"reading {file}", "tables")
    source = needed("pyarrow", f"reading {file}", "tables").memory_map(str(file))
    try:
        return ipc.open_file(source).read_all()
    except needed("pyarrow", f"reading {file}", "tables").ArrowInvalid:
        return ipc.open_stream(source).read_all()


def _on_disk(path: Path) -> list[Path]:
    """Return the arrow files of a dataset on disk. Raises DataError where its own list names none."""
    with readable(path / DISK, "save the dataset again"):
        told = json.loads((path / DISK).read_text("utf-8"))
        names = [str(entry["filename"]) for entry in told["_data_files"]]
    if told.get("_indices_data_files"):
        raise DataError(f"{path} is a selection of a dataset: call flatten_indices() and save it again")
    if not names or any(Path(name).name != name for name in names):
        raise DataError(f"{path / DISK} names no arrow file beside it; save the dataset again")
    return [path / name for name in names]


def _rows(path: Path, values: dict[str, Sequence[Any]], count: int, columns: Columns) -> Rows:
    for name in (*columns.data, *([columns.label] if columns.label else [])):
        if name not in values:
            raise DataError(f"{path} has no column {name!r}; it has {listed(list(values))}")
    label = columns.label or next((name for name in LABELS if name in values), None)
    data = columns.data or tuple(name for name in values if name != label)
    labels = None if label is None else [values[label][i] for i in range(count)]
    rows = Lazy(count, lambda index: {name: values[name][index] for name in data})
    return Rows(str(path), rows, data, labels, lambda index: f"{path}: row {index + 1}")


TABLES = (
    RowSource(
        form="a .csv or .tsv with a header",
        takes=lambda path: path.suffix.lower() in SEPARATED and path.is_file(),
        open=open_separated,
    ),
    RowSource(
        form="a .parquet, .feather or .arrow file, or a Hugging Face dataset on disk",
        takes=lambda path: (path.suffix.lower() in COLUMNAR and path.is_file()) or (path / DISK).is_file(),
        open=open_columnar,
    ),
)
