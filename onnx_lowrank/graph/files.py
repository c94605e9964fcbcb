"""Which file a path leads to, whatever it is called, and whether it may be replaced: links are looked through."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from onnx_lowrank.errors import ModelError

Identity: TypeAlias = tuple[int, int, str]
"""Device and inode of what is there, and ""; where nothing is, those of the nearest directory, and the rest."""
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
DEVICES = (Path("/dev"), Path("/proc"), Path("/sys"))


def identity(path: Path) -> Identity:
    """Return a value that two paths share if and only if they are one file, existing or not yet."""
    real = os.path.realpath(path)
    for way in (path, Path(real)):  # a path through a missing folder, none/../file, is a file all the same
        with suppress(OSError):
            status = way.stat()
            if status.st_ino:  # some file systems of Windows have no file numbers
                return status.st_dev, status.st_ino, ""
    folder, name = os.path.split(real)
    if not name:
        return 0, 0, folder
    device, inode, rest = identity(Path(folder))
    return device, inode, os.path.normcase(os.path.join(rest, name))


def special(path: Path) -> str:
    """Return what a path is where it is no regular file: "a device", say; empty for a file, or where nothing is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = stat.S_IFREG
    kind = next((name for test, name in KINDS if test(mode)), "")
    return kind or ("a device" if _among_devices(path) else "")


def _among_devices(path: Path) -> bool:
    """Return whether a path stands for an open file, like /dev/stdout: replacing it would replace the system's link."""
    folder = Path(os.path.realpath(path.parent))
    return folder == DEVICES[0] or any(root in (folder, *folder.parents) for root in DEVICES[1:])


def refuse_special(path: Path) -> None:
    """Raise ModelError where a file put there would replace a directory, a device or a pipe."""
    kind = special(path)
    if kind:
        raise ModelError(f"cannot write {path}: it is {kind}; choose another place")


def spare(target: Path, inputs: Iterable[Path]) -> None:
    """Raise ModelError where a target is one of the files that were read."""
    if is_among(target, inputs):
        raise ModelError(
            f"{target} is the input or its external data, which are never overwritten: choose another place"
        )


def is_among(target: Path, inputs: Iterable[Path]) -> bool:
    """Return whether a path leads to one of the files that were read."""
    read = {identity(path) for path in inputs}
    return bool(read) and identity(target) in read
