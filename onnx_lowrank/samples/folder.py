"""A directory: every .npz or .npy file in it is one sample, fed as it is; nothing stays in memory.

Labels are the key `labels` in each .npz, or a labels.npy beside the files, in the order of their names. A directory
of Polygraphy's .json files, one sample each, and one of ONNX's test_data_set_* are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples import polygraphy, protobuf
from onnx_lowrank.samples.npz import open_npy, open_npz, readable
from onnx_lowrank.samples.reader import Reader, is_folder
from onnx_lowrank.samples.records import LABELS, Raw, Record, record
from onnx_lowrank.samples.rows.folders import holds_media
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Array
from onnx_lowrank.types.words import counted

LABELS_FILE = LABELS + ".npy"


def read_folder(source: str | Path, inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples of a directory. Raises DataError where there is none, or where labels cannot be paired."""
    path = Path(source)
    with readable(path, "give another directory"):
        entries = sorted(
            (entry for entry in path.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    sets = protobuf.sets_in(path, entries)
    if sets:
        return protobuf.read_test_sets(path, sets, inputs)
    files = [entry for entry in entries if entry.suffix.lower() in (".npz", ".npy") and entry.name != LABELS_FILE]
    files = files or [entry for entry in entries if entry.suffix.lower() == ".json"]
    if not files and holds_media(path):
        raise DataError(f"{path} holds images or sounds: give it with --images or --audio (StoredData in Python)")
    if not files:
        raise DataError(
            f"{path} holds no sample; every .npz or .npy in a directory is one,"
            " or give a directory of test_data_set_* with input_*.pb in them"
        )
    labels = _labels(path, files) if path / LABELS_FILE in entries else None
    records = Lazy(len(files), lambda index: _sample(files[index], inputs))
    return Raw(_folder_text(len(files), path), records, labels, files)


def _folder_text(count: int, path: Path) -> str:
    """Return how a directory is called in a report: 12 files in dir/."""
    return f"{count} file{'' if count == 1 else 's'} in {path}/"


def _sample(file: Path, inputs: Sequence[TensorSpec]) -> Record:
    if file.suffix.lower() == ".npz":
        return record(open_npz(file), inputs)
    if file.suffix.lower() == ".json":
        return record(polygraphy.single_feed(file), inputs)
    if len(inputs) != 1:
        names = ", ".join(repr(spec.name) for spec in inputs)
        raise DataError(
            f"{file}: an .npy holds one array, and the model takes {len(inputs)} ({names}); save an .npz a sample"
        )
    return Record({inputs[0].name: open_npy(file)})


def _labels(path: Path, files: Sequence[Path]) -> Array:
    """Return the labels beside the files, refused where names leave open which file is the first."""
    if [file.name for file in files] != sorted((file.name for file in files), key=_by_number):
        raise DataError(
            f"{path / LABELS_FILE}: the files' order is ambiguous (sorted by name or by number?);"
            " pad the numbers with zeros, 0007.npz, or put 'labels' into each .npz"
        )
    labels = open_npy(path / LABELS_FILE)
    if labels.ndim == 0 or len(labels) != len(files):
        count = len(labels) if labels.ndim else 1
        raise DataError(
            f"{path / LABELS_FILE}: {counted(count, 'label')} for {counted(len(files), 'sample')}; give"
            " one label a file, in order of names"
        )
    return labels


def _by_number(name: str) -> str:
    """Return a key that sorts x2 before x10."""
    return re.sub(r"\d+", lambda number: number[0].zfill(20), name)


FOLDER = Reader(
    name="folder",
    form="a directory of one .npz or .npy a sample or of test_data_set_*",
    takes=is_folder,
    read=read_folder,
)
