"""ONNX's own test data: test_data_set_*/input_*.pb, one sample a set; the output_*.pb are not labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec, first_line
from onnx_lowrank.samples.conform import listed
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.records import Raw, Record
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Array


def sets_in(path: Path, entries: Sequence[Path]) -> list[Path]:
    """Return the directories of samples: those in `path` named test_data_set_*, or `path` itself."""
    sets = [entry for entry in entries if entry.name.startswith("test_data_set_") and entry.is_dir()]
    if not sets and any(_number(entry) is not None for entry in entries):
        return [path]
    return sorted(sets, key=lambda entry: [int(number) for number in re.findall(r"\d+", entry.name)])


def read_test_sets(path: Path, sets: Sequence[Path], inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples of the sets; each is read when it is asked for."""
    source = f"{len(sets)} test data set{'' if len(sets) == 1 else 's'} in {path}/"
    return Raw(source, Lazy(len(sets), lambda index: _sample(sets[index], inputs)), files=sets)


def _number(file: Path) -> int | None:
    match = re.fullmatch(r"input_(\d+)\.pb", file.name)
    return int(match[1]) if match else None


def _sample(folder: Path, inputs: Sequence[TensorSpec]) -> Record:
    """Return the set's tensors by their names; those of other names, in order, for the inputs that are left."""
    with readable(folder, "give another directory"):
        numbered = {number: file for file in folder.iterdir() if (number := _number(file)) is not None}
    if not numbered:
        raise DataError(f"{folder} holds no input_*.pb; write one for each input of the model")
    names = [spec.name for spec in inputs]
    arrays: dict[str, Array] = {}
    rest: list[Array] = []
    for number in sorted(numbered):
        name, array = _tensor(numbered[number])
        if name in names and name not in arrays:
            arrays[name] = array
        else:
            rest.append(array)
    free = [name for name in names if name not in arrays]
    if len(rest) != len(free):
        raise DataError(
            f"{folder} holds {len(numbered)} input_*.pb, and the model takes {len(names)} ({listed(names)});"
            " write one for each input"
        )
    return Record(arrays | dict(zip(free, rest, strict=True)))


def _tensor(file: Path) -> tuple[str, Array]:
    tensor = onnx.TensorProto()
    with readable(file, "write it again with onnx.save_tensor"):
        data = file.read_bytes()
    try:
        tensor.ParseFromString(data)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise DataError(f"{file}: its data lie in another file, which is not read here; write them into the .pb")
        return tensor.name, onnx.numpy_helper.to_array(tensor)
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file} is not an ONNX tensor ({first_line(error)}); write it again with onnx.save_tensor"
        ) from error
