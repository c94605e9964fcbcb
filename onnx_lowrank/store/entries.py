"""A folder of results by the content of what they came from: one file an entry, whole or not there at all.

An entry is an .npz of plain arrays (numpy alone reads it, without pickles, and its CRC finds damage), named by the
SHA-256 of its key and holding the key itself. It is written beside its place and moved there, so that two processes
never see half of one; both write the same. What was used last is kept where the bound on the size is met.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lowrank.errors import GoalError
from onnx_lowrank.store.packing import DamagedError, Given, pack, unpack

LOGGER = logging.getLogger("onnx_lowrank")
FORMAT = 1
SUFFIX, UNFINISHED = ".npz", ".part"
DIGEST = re.compile("[0-9a-f]{64}")
STALE = 24 * 3600.0
"""Seconds after which a file that was never finished is taken for that of a process that died."""
HEAD, BODY = "head", "body"
UNREADABLE = (
    *(DamagedError, OSError, EOFError, ValueError, LookupError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error),
)
"""What zipfile, numpy and json raise for a file that is not one of ours, or no longer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the folder. what: the step whose result it is; seconds: what that took; used: when, last (epoch)."""

    path: Path
    what: str
    bytes: int
    seconds: float
    used: float


@dataclass(frozen=True, slots=True)
class Store:
    """Results that can be had again, by key. limit: bytes of all files together."""

    folder: Path
    limit: int

    @staticmethod
    def at(folder: str | Path, limit: int = 10 * 10**9) -> Store:
        """Return the store in a folder, made for this user alone where there is none. Raises GoalError."""
        path = Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise GoalError(f"cannot make the cache folder {path}: {error.strerror}; choose another place") from error
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise GoalError(f"cannot write in the cache folder {path}: permission denied; choose another place")
        return Store(path, limit)

    def has(self, key: str) -> bool:
        """Whether there is a file for a key; whether it is whole, only reading tells."""
        return self._place(key).is_file()

    def load(self, key: str, given: Given | None = None) -> tuple[Any, float] | None:
        """Return a value, and the seconds it took to make; None where there is none, or what is there is not whole.

        What is damaged, of another key or of another version is removed: it would be found again and again.
        """
        path = self._place(key)
        if not path.is_file():
            return None
        try:
            head, body, arrays = _read(path)
            if head["key"] != key or head["format"] != FORMAT:
                raise DamagedError("of another key")
            value = unpack(body, arrays, given)
            seconds = float(head["seconds"])
        except (
            DamagedError,
            OSError,
            EOFError,
            ValueError,
            LookupError,
            TypeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            LOGGER.warning("%s in the cache is damaged (%s): made again", path.name, error)
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return value, seconds

    def save(self, key: str, what: str, seconds: float, value: object, given: Given | None = None) -> None:
        """Keep a value; where it cannot be written (a full disk, say) there is a warning and nothing else."""
        body, arrays = pack(value, given)
        head = json.dumps({"format": FORMAT, "key": key, "what": what, "seconds": seconds})
        parts = {HEAD: _bytes(head), BODY: np.frombuffer(zlib.compress(body.encode(), 1), np.uint8)}
        size = sum(array.nbytes for array in (*parts.values(), *arrays))
        if size > self.limit:
            LOGGER.warning("%s (%d MB) is larger than the cache may be", what, size // 10**6)
            return
        self._make_room(size)
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=UNFINISHED)
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **parts, **{str(i): array for i, array in enumerate(arrays)})  # type: ignore[arg-type]
            os.replace(temporary, self._place(key))
        except OSError as error:
            LOGGER.warning("%s could not be kept in the cache: %s", what, error.strerror)
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)

    def entries(self) -> list[Entry]:
        """Return what is there, the largest first; what cannot be read is called damaged."""
        return sorted(self._entries(), key=lambda entry: (-entry.bytes, entry.path.name))

    def clear(self) -> int:
        """Remove every entry, and what was never finished, nothing else; return the bytes that were freed."""
        freed = 0
        for path in (*self._files(), *self.folder.glob(f".*{UNFINISHED}")):
            with suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                freed += size
        return freed

    def _entries(self) -> Iterator[Entry]:
        for path in self._files():
            with suppress(OSError):
                status = path.stat()
                what, seconds = _about(path)
                yield Entry(path, what, status.st_size, seconds, status.st_mtime)

    def _files(self) -> list[Path]:
        """Return the files that are ours by their names."""
        return [path for path in self.folder.glob(f"*{SUFFIX}") if DIGEST.fullmatch(path.stem)]

    def _place(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}{SUFFIX}"

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago, until so many bytes more fit; and what dead processes left."""
        for path in self.folder.glob(f".*{UNFINISHED}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()
        found = []
        for path in self._files():
            with suppress(OSError):  # another process may be at it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        held = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if held + size <= self.limit:
                return
            with suppress(OSError):
                path.unlink()
            held -= bytes_


def _bytes(text: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(text.encode(), np.uint8)


def _read(path: Path) -> tuple[dict[str, Any], str, list[np.ndarray[Any, Any]]]:
    """Return head, body and arrays. Raises what zipfile and numpy raise, and DamagedError."""
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise DamagedError("compressed")  # numpy did not write that: it might fill the memory
    with np.load(path, allow_pickle=False) as file:
        head = _head(file[HEAD])
        body = zlib.decompress(file[BODY].tobytes()).decode()
        return head, body, [file[str(i)] for i in range(len(file.files) - 2)]


def _head(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    head = json.loads(array.tobytes().decode())
    if not isinstance(head, dict):
        raise DamagedError("no head")
    return head


def _about(path: Path) -> tuple[str, float]:
    """Return what an entry is of, and the seconds it took."""
    try:
        with np.load(path, allow_pickle=False) as file:
            head = _head(file[HEAD])
        return str(head["what"]), float(head["seconds"])
    except UNREADABLE:
        return "damaged", 0.0
