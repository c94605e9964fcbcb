"""Large arrays of a value in a temporary file, mapped: the system may drop their pages and read them again."""

from __future__ import annotations

import tempfile
from typing import TypeVar, cast

import numpy as np

from onnx_lowrank.errors import ModelError
from onnx_lowrank.store.packing import Given, pack, unpack
from onnx_lowrank.types import Array

T = TypeVar("T")
LEAST = 2**16
"""Bytes of an array that goes to the file."""
PAGE = 4096


def spilled(value: T, room: int, given: Given | None = None) -> T:
    """Return an equal value whose large arrays lie in a file without a name, read-only; itself where it fits in `room`.

    The file goes with the last array. given: parts that stay as they are. Raises ModelError where it cannot be written.
    """
    text, arrays = pack(value, given)
    large = [array.nbytes >= LEAST and not isinstance(array, np.memmap) for array in arrays]
    if sum(array.nbytes for array, out in zip(arrays, large, strict=True) if out) <= room:
        return value
    try:
        with tempfile.TemporaryFile(prefix="onnx-lowrank-") as file:
            for place, out in enumerate(large):
                if out:
                    offset = -(-file.tell() // PAGE) * PAGE
                    file.seek(offset)
                    array = np.ascontiguousarray(arrays[place])
                    file.write(array.data)
                    file.flush()
                    arrays[place] = _mapped(file, array, offset)
                    del array
    except OSError as error:
        raise ModelError(
            f"cannot write factors to the folder for temporary files: {error.strerror}; set TMPDIR to a place with a"
            " few times as much room as the model takes"
        ) from error
    return cast("T", unpack(text, arrays, given))


def _mapped(file: object, array: Array, offset: int) -> Array:
    return np.memmap(file, array.dtype, "r", offset, array.shape)  # type: ignore[call-overload, no-any-return]
