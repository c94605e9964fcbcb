"""A text file: one sample a line, without labels."""

from __future__ import annotations

from pathlib import Path

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.rows.row import Columns, Rows, RowSource

TEXT = "text"


def open_lines(path: Path, columns: Columns) -> Rows:
    """Return the lines that are not empty. Raises DataError for a file that is no UTF-8 text."""
    with readable(path, "save it as UTF-8 text, one sample a line"):
        lines = path.read_text("utf-8-sig").splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if line.strip()]
    if columns.data or columns.label:
        raise DataError(f"{path} has lines and no columns: leave the column's name out, or give a .csv with a header")
    rows = [{TEXT: lines[number - 1]} for number in numbers]
    return Rows(str(path), rows, (TEXT,), None, lambda index: f"{path}: line {numbers[index]}")


LINES = RowSource(
    form="a .txt, one sample a line",
    takes=lambda path: path.suffix.lower() == ".txt" and path.is_file(),
    open=open_lines,
)
