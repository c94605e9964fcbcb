"""From whatever the user gives to samples: the first reader that takes it reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import check_inputs
from onnx_lowrank.samples.folder import FOLDER
from onnx_lowrank.samples.intake import Progress, take
from onnx_lowrank.samples.iterables import PYTHON, DataReader
from onnx_lowrank.samples.named_labels import NamedLabels
from onnx_lowrank.samples.numpy_file import NUMPY
from onnx_lowrank.samples.polygraphy import POLYGRAPHY
from onnx_lowrank.samples.random_data import RandomData, random_samples
from onnx_lowrank.samples.reader import Reader
from onnx_lowrank.samples.records import with_groups
from onnx_lowrank.samples.script import SCRIPT
from onnx_lowrank.samples.sets import Samples
from onnx_lowrank.samples.stored import STORED, StoredData, takes_rows

Source: TypeAlias = (
    Samples | RandomData | StoredData | NamedLabels | str | Path | DataReader | Mapping[str, Any] | Iterable[Any]
)

READERS: tuple[Reader, ...] = (NUMPY, FOLDER, POLYGRAPHY, SCRIPT, STORED, PYTHON)
"""All forms in which samples come, in the order in which they are tried and told of."""


def read(
    source: Source,
    inputs: Sequence[TensorSpec],
    *,
    groups: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Samples:
    """Return the samples of `source`, every one of them checked against the model's inputs and hashed.

    `source`: a path (.npz, .npy, .json of Polygraphy, a directory, FILE.py[:function]), a dict of arrays that hold
    all samples along the leading axis, an iterable of dicts or of (dict, label), onnxruntime's CalibrationDataReader;
    NamedLabels are one of these whose labels are names of classes. Samples are returned as they are; RANDOM invents
    some, the same for the same `seed`. groups: a key beside the inputs, equal where samples share a source. `progress`
    is told (done, total) after each sample. Raises DataError, one line, for all that can be wrong.

    >>> import numpy as np
    >>> from onnx_lowrank import Session, read
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> inputs = Session.of(MODEL, demo_samples()["calibration"]).loaded.runner.inputs
    >>> samples = read({"image": np.zeros((5, 1, 28, 28)), "labels": [4, 0, 3, 1, 2]}, inputs)
    >>> len(samples), samples.feeds[0]["image"].shape, str(samples.feeds[0]["image"].dtype)
    (5, (1, 1, 28, 28), 'float32')
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, RandomData):
        return random_samples(inputs, source.count, seed, dict(source.shapes))
    check_inputs(inputs)
    named = source if isinstance(source, NamedLabels) else None
    found = source if named is None else named.source
    reader = _reader_of(found)
    if reader is None:
        raise DataError(_refusal(found))
    raw = reader.read(found, with_groups(inputs, groups))
    return take(raw if named is None else named.numbered(raw), inputs, progress, groups)


def path_forms() -> str:
    """Return what can be given as a path: "an .npz or …, a directory of …, or …"."""
    *forms, last = (reader.form for reader in READERS if reader.is_path)
    return ", ".join(forms) + f", or {last}"


def place_of(source: str | Path) -> Path:
    """Return the file or directory that a path of samples names, whether there is one or not."""
    reader = _reader_of(source)
    return Path(source) if reader is None else reader.place(source)


def _reader_of(source: Any) -> Reader | None:
    if isinstance(source, str | Path) and not str(source):  # which pathlib takes for the current directory
        return None
    return next((reader for reader in READERS if reader.takes(source)), None)


def _refusal(source: Any) -> str:
    """Return why no reader takes the source, and what to give instead."""
    if not isinstance(source, str | Path):
        objects = ", ".join(reader.form for reader in READERS if not reader.is_path)
        return f"samples cannot be a {type(source).__name__}; give a path, {objects}"
    if not str(source):
        return f"the path of the samples is empty; give {path_forms()}"
    path = Path(source)
    if not path.exists():
        return f"{path}: no such file or directory; give {path_forms()}"
    hint = f"give its directory, {path.parent}" if path.suffix.lower() == ".pb" else f"give {path_forms()}"
    if takes_rows(path):
        hint = "give it with --text, --table, --images or --audio (onnx_lowrank.samples.StoredData in Python)"
    return f"{path} is of no form that can be read as samples; {hint}"
