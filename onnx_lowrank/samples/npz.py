"""Numpy's files, never unpickled; large uncompressed arrays stay on disk until a sample is asked for."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, Literal

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import first_line
from onnx_lowrank.types import Array

MAPPED_FROM = 2**22
"""Bytes from which an array is mapped, not read: 4 MiB."""
UNREADABLE = (
    ValueError,
    OverflowError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy, zipfile and json raise for damaged files (NotImplementedError and RecursionError are RuntimeErrors)."""


@contextmanager
def readable(path: Path, mend: str) -> Iterator[None]:
    """Turn what can go wrong while a file is read into a DataError of one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or first_line(error)}; check the file") from error
    except UNREADABLE as error:
        raise DataError(f"{path} is damaged or of another format ({first_line(error)}); {mend}") from error


def open_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of an .npz by name. Raises DataError for a file that numpy did not write, or with objects."""
    with readable(path, "write it again with numpy.savez"), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if not members:
            raise DataError(f"{path} holds no array; write it with numpy.savez, one array for each input of the model")
        return {info.filename[:-4]: _member(path, archive, info) for info in members}


def open_npy(path: Path) -> Array:
    """Return the array of an .npy. Raises DataError for a file that numpy did not write, or with objects."""
    with readable(path, "write it again with numpy.save"), path.open("rb") as file:
        shape, fortran, dtype = _header(file, f"{path}: it")
        if _is_large(shape, dtype):
            return _mapped(path, file.tell(), shape, fortran, dtype)
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as file:
        shape, fortran, dtype = _header(file, f"{path}: {info.filename[:-4]!r}")
        length = file.tell()
    if info.compress_type == zipfile.ZIP_STORED and _is_large(shape, dtype):
        return _mapped(path, _data_offset(path, info) + length, shape, fortran, dtype)
    with archive.open(info) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of numpy's format")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise DataError(
            f"{what} holds pickled Python objects, which are never loaded (they could run code); save numbers, and"
            " samples of different shapes in a directory, one .npz a sample"
        )
    return shape, fortran, dtype


def _is_large(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return int(np.prod(shape, dtype=object)) * dtype.itemsize >= MAPPED_FROM


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: its local header is 30 bytes, a name and an extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name + extra)


def _mapped(path: Path, offset: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]) -> Array:
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.asarray(np.memmap(path, mode="r", offset=offset, shape=shape, dtype=dtype, order=order))
