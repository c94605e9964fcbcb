"""Weights that stay in their file: mapped into memory where they are read, one at a time, and never copied as a whole.

Of a large model a tensor keeps its name, type and shape; where its numbers lie is the absolute path of a file, an
offset and a length, in the fields of ONNX's external data. `tensor_array` reads every tensor, wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnx_lowrank.errors import ModelError
from onnx_lowrank.types import Array

MAPPED_FROM = 2**28
"""Bytes of external data from which on weights stay where they are; smaller models are read into memory."""
LEAST = 2**16
"""Bytes of a weight that stays in its file; what is smaller is read: shapes, axes, biases."""


def is_mapped(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor's numbers lie in a file that it names by its absolute path."""
    return uses_external_data(tensor) and Path(ExternalDataInfo(tensor).location).is_absolute()


def place_in(tensor: onnx.TensorProto, path: Path, offset: int, length: int) -> None:
    """Have a tensor's numbers lie in a file, in place of where they lay."""
    tensor.ClearField("external_data")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", path), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def keep_apart(files: Sequence[tuple[onnx.TensorProto, Path]]) -> None:
    """Let large tensors of external data stay in the files they lie in, by full path from now on.

    None of them where all together are small.
    """
    found = [(tensor, file, ExternalDataInfo(tensor)) for tensor, file in files]
    sizes = [int(info.length or file.stat().st_size - (info.offset or 0)) for _, file, info in found]
    if sum(sizes) < MAPPED_FROM:
        return
    for (tensor, file, info), size in zip(found, sizes, strict=True):
        if size >= LEAST:
            place_in(tensor, file, info.offset or 0, size)


def tensor_array(tensor: onnx.TensorProto) -> Array:
    """Return a tensor's numbers, read-only where they are mapped. Raises ModelError where their file is gone."""
    if not is_mapped(tensor):
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    dims, raw = tuple(tensor.dims), raw_bytes(tensor)
    if tensor.data_type in PACKED:
        head = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims, raw_data=raw.tobytes())
        return np.asarray(onnx.numpy_helper.to_array(head))
    return np.asarray(raw.view(kind)).reshape(dims)


PACKED = {
    getattr(onnx.TensorProto, name)
    for name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1")
    if hasattr(onnx.TensorProto, name)
}
"""Types of which several numbers share a byte."""


def raw_bytes(tensor: onnx.TensorProto) -> Array:
    """Return (n,) uint8 of what a mapped tensor's file holds, mapped itself. Raises ModelError where that is gone."""
    info = ExternalDataInfo(tensor)
    path, offset, length = info.location, int(info.offset or 0), int(info.length or 0)
    if not length:
        return np.zeros(0, np.uint8)
    try:
        return np.memmap(path, np.uint8, "r", offset, (length,))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"weight {tensor.name!r} cannot be read from {path}: has the file changed? ({error})"
        ) from error


def mapped_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a mapped tensor's numbers."""
    return int(ExternalDataInfo(tensor).length or 0)


def mapped_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of the main graph that are mapped."""
    return (tensor for tensor in model.graph.initializer if is_mapped(tensor))


def follow(model: onnx.ModelProto, before: Path, after: Path) -> None:
    """Let a model's weights lie where a file was moved to: from one folder to another, under the same name."""
    for tensor in mapped_tensors(model):
        place = Path(ExternalDataInfo(tensor).location)
        if place.parent == before.resolve():
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = str(after.resolve() / place.name)


def for_runtime(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str] | None:
    """Return the model with its files named from a folder that holds all of them, and that folder; None if none is.

    onnxruntime opens no absolute path, and nothing outside of the folder it is given.
    """
    found = list(mapped_tensors(model))
    if not found:
        return None
    anchors = {Path(ExternalDataInfo(tensor).location).anchor for tensor in found}
    if len(anchors) > 1:
        raise ModelError("the weights lie on different drives, where onnxruntime cannot open them: move them to one")
    copy, (anchor,) = onnx.ModelProto(), anchors
    copy.CopyFrom(model)
    for tensor in mapped_tensors(copy):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = Path(entry.value).relative_to(anchor).as_posix()
    return copy, anchor


__all__ = [
    *("MAPPED_FROM", "follow", "for_runtime", "is_mapped", "keep_apart", "mapped_bytes", "mapped_tensors"),
    *("place_in", "raw_bytes", "tensor_array"),
]
