"""WebDataset: a .tar in which the files of one sample share a name: 0007.jpg, 0007.cls, 0007.txt."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.rows.folders import MEDIA
from onnx_lowrank.samples.rows.lines import TEXT
from onnx_lowrank.samples.rows.row import Columns, Rows, RowSource
from onnx_lowrank.samples.sets import Lazy

CLASS = "cls"
"""The suffix of a sample's class, a number or a name."""
LARGEST = 2**28
"""Bytes of one file in an archive, at most: what says it is larger is not believed."""
SUFFIXES = {suffix[1:]: column for column, suffixes in MEDIA.items() for suffix in suffixes} | {TEXT: TEXT, "txt": TEXT}


def open_archive(path: Path, columns: Columns) -> Rows:
    """Return the samples of an archive; files are read from it when they are asked for."""
    with readable(path, "write the archive again"):
        try:
            with tarfile.open(path, "r:") as archive:
                members = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
        except tarfile.TarError as error:
            raise DataError(f"{path} is no uncompressed tar ({error}); write the archive again") from error
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    for name, offset, size in members:
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        if stem and suffix:
            samples.setdefault(f"{folder}/{stem}", {})[suffix.lower()] = (offset, size)
    keys = list(samples)
    if not keys:
        raise DataError(f"{path} holds no sample: name the files of one alike, 0007.jpg and 0007.cls, say")
    wanted = {SUFFIXES[suffix]: suffix for suffix in samples[keys[0]] if suffix in SUFFIXES}
    if not wanted:
        raise DataError(f"{path}: {keys[0]} has no image, sound or text; its files are {', '.join(samples[keys[0]])}")
    read = _reader(path, samples)
    label = columns.label or (CLASS if CLASS in samples[keys[0]] else None)
    labels = None if label is None else [_label(read(key, label)) for key in keys]
    rows = Lazy(len(keys), lambda index: _row(read, keys[index], wanted))
    return Rows(str(path), rows, tuple(wanted), labels, lambda index: f"{path}: {keys[index].lstrip('/')}")


def _reader(path: Path, samples: dict[str, dict[str, tuple[int, int]]]) -> Callable[[str, str], bytes]:
    def read(key: str, suffix: str) -> bytes:
        if suffix not in samples[key]:
            raise DataError(f"{path}: {key.lstrip('/')} has no .{suffix}, as the first sample has: complete it")
        offset, size = samples[key][suffix]
        if size > LARGEST:
            raise DataError(f"{path}: {key.lstrip('/')}.{suffix} has {size} bytes, more than a sample may ({LARGEST})")
        with readable(path, "write the archive again"), path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise DataError(f"{path} ends within {key.lstrip('/')}.{suffix}; write the archive again")
        return content

    return read


def _row(read: Callable[[str, str], bytes], key: str, wanted: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {column: read(key, suffix) for column, suffix in wanted.items()}
    return row | ({TEXT: row[TEXT].decode("utf-8", "replace")} if TEXT in row else {})


def _label(content: bytes) -> Any:
    text = content.decode("utf-8", "replace").strip()
    try:
        return json.loads(text)
    except ValueError:
        return text


ARCHIVES = RowSource(
    form="a WebDataset .tar",
    takes=lambda path: path.suffix.lower() == ".tar" and path.is_file(),
    open=open_archive,
)
