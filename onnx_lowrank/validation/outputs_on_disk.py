"""Outputs that memory has no room for, in a temporary file: to read them takes far less than to run the model again."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from onnx_lowrank.types import Array

SHARE, MOST = 4, 8 * 2**30
"""Of what is free where temporary files go one part in so many is taken at most, and at most so many bytes."""


class Place(NamedTuple):
    """Where an array lies in the file."""

    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


Stored = dict[str, Place]
"""A sample's outputs by name."""


class OutputsOnDisk:
    """A file without a name, gone with the process however that ends; made when the first sample comes.

    limit: bytes; None: by what is free then. Where the disk refuses, nothing more is taken.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._bytes = 0
        self._file: BinaryIO | None = None

    def put(self, sample: Mapping[str, Array]) -> Stored | None:
        """Write a sample's outputs. Return where they are, None where they do not fit or are no plain arrays."""
        arrays = list(sample.values())
        if not all(isinstance(array, np.ndarray) and not array.dtype.hasobject for array in arrays):
            return None
        stored, offset = Stored(), self._bytes
        for name, array in sample.items():
            stored[name] = Place(offset, array.dtype, array.shape)
            offset += array.nbytes
        try:
            if self._limit is None:
                self._limit = min(shutil.disk_usage(tempfile.gettempdir()).free // SHARE, MOST)
            if offset > self._limit:
                return None
            if self._file is None:
                # without a buffer: one that could not be written would be tried again by every read
                self._file = cast("BinaryIO", tempfile.TemporaryFile(prefix="onnx-lowrank-", buffering=0))  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(self._bytes)
            if any(self._file.write(array.tobytes()) != array.nbytes for array in arrays):
                raise OSError("the disk is full")
        except OSError:
            self._limit = 0
            return None
        self._bytes = offset
        return stored

    def get(self, stored: Stored) -> dict[str, Array]:
        """Return a sample's outputs as they were."""
        found = {}
        for name, (offset, dtype, shape) in stored.items():
            assert self._file is not None
            self._file.seek(offset)
            data = bytearray(self._file.read(dtype.itemsize * int(np.prod(shape, dtype=np.int64))))
            found[name] = np.ndarray(shape, dtype, data)
        return found
