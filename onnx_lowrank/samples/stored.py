"""Stored data with a format: a folder of images, a table of texts, sounds; read row by row, encoded for the model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import listed, nearest
from onnx_lowrank.samples.formats import Format
from onnx_lowrank.samples.formats.format import Encoder
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.reader import Reader
from onnx_lowrank.samples.records import Raw, Record
from onnx_lowrank.samples.rows.archives import ARCHIVES
from onnx_lowrank.samples.rows.folders import FOLDERS
from onnx_lowrank.samples.rows.lines import LINES
from onnx_lowrank.samples.rows.row import Columns, Rows, RowSource
from onnx_lowrank.samples.rows.tables import TABLES
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Array
from onnx_lowrank.types.words import counted

SOURCES: tuple[RowSource, ...] = (FOLDERS, LINES, *TABLES, ARCHIVES)
"""All forms in which rows are stored, in the order in which they are tried."""
ROWS_KEPT = 8
"""Rows whose windows are kept: they are read one after the other, and cut anew by every reading."""
FOLLOWING = "labels are the tokens that follow"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredData:
    """A source of samples: a path, and the format in which its rows become what the model takes.

    classes: for labels that are names: those of all classes in the order of the model's outputs, or a file of them, one
    a line (or a JSON list); None: labels that are names are numbered in their order (over all sets of a run).
    """

    path: Path
    format: Format
    columns: Columns = field(default_factory=Columns)
    classes: Path | tuple[str, ...] | None = None

    def rows(self) -> Rows:
        """Return the rows as stored. Raises DataError where the path is of no form that is known."""
        if not self.path.exists():
            raise DataError(f"{self.path}: no such file or directory; give {stored_forms()}")
        source = next((each for each in SOURCES if each.takes(self.path)), None)
        if source is None:
            raise DataError(f"{self.path} is of no form that can be read with a format; give {stored_forms()}")
        rows = source.open(self.path, self.columns)
        if not len(rows.rows):
            raise DataError(f"{self.path}: no sample in it; give at least one")
        return rows


def takes_rows(path: Path) -> bool:
    """Return whether a path is of a form in which rows are stored."""
    return any(source.takes(path) for source in SOURCES)


def stored_forms() -> str:
    """Return what can be given: "a folder of …, a .txt …, or …"."""
    *most, last = (source.form for source in SOURCES)
    return ", ".join(most) + f", or {last}"


def read_stored(source: StoredData, inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples of stored data. Raises DataError."""
    rows = source.rows()
    encoder = source.format.fitted(inputs, rows.columns, str(source.path))
    labels, notes = numbered(rows, source.classes)
    notes = (*encoder.notes, *notes)
    if labels is None and encoder.labels is not None:
        return _with_own_labels(rows, encoder, encoder.labels, (*notes, f"{rows.source}: {FOLLOWING}"))
    records = Lazy(len(rows.rows), lambda index: Record(encoder.encode(rows.rows[index], rows.places(index))))
    return Raw(rows.source, records, labels, notes=notes, places=rows.places)


def _with_own_labels(
    rows: Rows, encoder: Encoder, labels: Callable[[dict[str, Array]], Array], notes: tuple[str, ...]
) -> Raw:
    """Return samples whose labels are made of themselves: of every row one, or all its windows, which are a group."""

    @functools.lru_cache(ROWS_KEPT)
    def samples_of(row: int) -> list[dict[str, Array]]:
        split = encoder.windows or (lambda row, place: [encoder.encode(row, place)])
        return split(rows.rows[row], rows.places(row))

    places = [(row, window) for row in range(len(rows.rows)) for window in range(len(samples_of(row)))]

    def made(index: int) -> Record:
        row, window = places[index]
        arrays = samples_of(row)[window]
        return Record(arrays, labels(arrays))

    def place(index: int) -> str:
        return rows.places(places[index][0])

    several = len(places) > len(rows.rows)
    if several:
        of = f"{len(places):,} windows of {len(rows.rows):,} {'text' if len(rows.rows) == 1 else 'texts'}"
        notes = (*notes, f"{rows.source}: {of}; those of one text count together")
    groups = [place(index) for index in range(len(places))] if several else None
    return Raw(rows.source, Lazy(len(places), made), notes=notes, places=place, groups=groups)


def numbered(rows: Rows, classes: Path | tuple[str, ...] | None) -> tuple[Any, tuple[str, ...]]:
    """Return one label a row, names as class numbers, and what was assumed. Raises DataError for a name unknown."""
    labels = rows.labels
    if labels is None:
        if isinstance(classes, Path):
            raise DataError(f"{rows.source} has no labels, so --classes {classes} says nothing: leave it out")
        return None, ()
    if not named(labels):
        return (_numbers(labels) if all(isinstance(label, str) for label in labels) else list(labels)), ()
    names = class_names(classes) if isinstance(classes, Path) else classes or tuple(sorted(set(labels)))
    places = {name: number for number, name in enumerate(names)}
    for index, label in enumerate(labels):
        if label not in places:
            where = classes if isinstance(classes, Path) else "the classes given"
            raise DataError(
                f"{rows.places(index)}: class {label!r} is not in {where}{nearest(label, names)}; add it there, in"
                " the order of the model's outputs"
            )
    note = f"{rows.source}: {counted(len(names), 'class')} numbered by name, {listed(names)}"
    return np.array([places[label] for label in labels]), (() if isinstance(classes, Path) else (note,))


def named(labels: Sequence[Any]) -> bool:
    """Return whether labels are names of classes, and not all of them numbers."""
    return len(labels) > 0 and all(isinstance(v, str) for v in labels) and not all(_is_number(v) for v in labels)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _numbers(labels: Sequence[str]) -> Any:
    values = np.array([float(label) for label in labels])
    whole = values.astype(np.int64)
    return whole if (whole == values).all() else values


def class_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file of classes. Raises DataError where it names none, or one twice."""
    with readable(path, "give a text file, one class a line"):
        text = path.read_text("utf-8-sig")
        told = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    if isinstance(told, dict):  # {"0": "tench"}, or {"0": ["n01440764", "tench"]}
        told = [told.get(str(number)) for number in range(len(told))]
    names = [str(name[0] if isinstance(name, list) and name else name).strip() for name in told]
    while names and not names[-1]:
        names.pop()
    if not names or len(set(names)) != len(names):
        raise DataError(f"{path} must name every class once, in the order of the model's outputs, one a line")
    return tuple(names)


STORED = Reader(
    name="stored",
    form="an onnx_lowrank.samples.StoredData",
    takes=lambda source: isinstance(source, StoredData),
    read=read_stored,
    is_path=False,
)
