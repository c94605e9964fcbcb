"""From whatever the user gives to samples: the form is told by type, by kind of place, by suffix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import check_inputs
from onnx_lowrank.samples.folder import read_folder
from onnx_lowrank.samples.intake import Progress, take
from onnx_lowrank.samples.iterables import DataReader, from_python
from onnx_lowrank.samples.npz import open_npy, open_npz
from onnx_lowrank.samples.polygraphy import read_polygraphy
from onnx_lowrank.samples.random_data import RandomData, random_samples
from onnx_lowrank.samples.records import Raw, with_groups
from onnx_lowrank.samples.script import parse, read_script
from onnx_lowrank.samples.sets import Samples
from onnx_lowrank.samples.stacked import stacked

Source: TypeAlias = Samples | RandomData | str | Path | DataReader | Mapping[str, Any] | Iterable[Any]
FORMS = (
    "give an .npz or .npy (samples along the leading axis), a directory of one .npz or .npy a sample or of"
    " test_data_set_*, a Polygraphy .json, or FILE.py[:load_data]"
)


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
    Samples are returned as they are; RANDOM invents some, the same for the same `seed`. groups: a key beside the
    inputs, equal where samples share a source. `progress` is told (done, total) after each sample.
    Raises DataError, one line, for all that can be wrong.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, RandomData):
        return random_samples(inputs, source.count, seed)
    check_inputs(inputs)
    wanted = with_groups(inputs, groups)
    raw = _from_path(source, wanted) if isinstance(source, str | Path) else _from_object(source, wanted)
    return take(raw, inputs, progress, groups)


def _from_object(given: Any, inputs: Sequence[TensorSpec]) -> Raw:
    kind = type(given).__name__
    if isinstance(given, DataReader | Mapping) or hasattr(given, "__iter__"):
        return from_python(given, inputs, f"the {kind} given")
    raise DataError(f"samples cannot be a {kind}; give a path, an iterable of dicts or a CalibrationDataReader")


def _from_path(given: str | Path, inputs: Sequence[TensorSpec]) -> Raw:
    if not str(given):  # which pathlib takes for the current directory
        raise DataError(f"the path of the samples is empty; {FORMS}")
    script = parse(str(given))
    if script is not None:
        return read_script(*script, inputs)
    path = Path(given)
    if not path.exists():
        raise DataError(f"{path}: no such file or directory; {FORMS}")
    if path.is_dir():
        return read_folder(path, inputs)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return stacked(open_npz(path), inputs, str(path))
    if suffix == ".npy":
        return _from_npy(path, inputs)
    if suffix == ".json":
        return read_polygraphy(path, inputs)
    hint = f"give its directory, {path.parent}" if suffix == ".pb" else FORMS
    raise DataError(f"{path} is of no form that can be read as samples; {hint}")


def _from_npy(path: Path, inputs: Sequence[TensorSpec]) -> Raw:
    if len(inputs) != 1:
        raise DataError(
            f"{path}: an .npy holds one array, and the model takes {len(inputs)}; save an .npz, one array an input"
        )
    return stacked({inputs[0].name: open_npy(path)}, inputs, str(path))
