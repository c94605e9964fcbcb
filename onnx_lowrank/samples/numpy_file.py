"""One .npz or .npy that holds all samples along its leading axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.npz import open_npy, open_npz
from onnx_lowrank.samples.reader import Reader, is_file_of
from onnx_lowrank.samples.records import Raw
from onnx_lowrank.samples.stacked import stacked


def read_numpy_file(source: str | Path, inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples of a file. Raises DataError; an .npy is for models with one input."""
    path = Path(source)
    if path.suffix.lower() == ".npz":
        return stacked(open_npz(path), inputs, str(path))
    if len(inputs) != 1:
        raise DataError(
            f"{path}: an .npy holds one array, and the model takes {len(inputs)}; save an .npz, one array an input"
        )
    return stacked({inputs[0].name: open_npy(path)}, inputs, str(path))


NUMPY = Reader(
    name="numpy",
    form="an .npz or .npy (samples along the leading axis)",
    takes=lambda source: is_file_of(source, ".npz", ".npy"),
    read=read_numpy_file,
)
