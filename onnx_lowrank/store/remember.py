"""A step whose result is kept: made once, and read again by whoever asks for the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from onnx_lowrank.progress import Progress
from onnx_lowrank.store.entries import Store
from onnx_lowrank.store.packing import Given, pack
from onnx_lowrank.version import __version__

T = TypeVar("T")
Place = tuple[str, int]
"""A folder, and the bytes that it may hold."""
Parts = Callable[[], Sequence[object]]
"""All that a result depends on; asked for only where something is kept."""
NUMBERS_FROM = ("numpy", "scipy", "onnx", "onnxruntime", "onnxruntime-gpu")
"""Packages whose version is part of every key."""
RECALLED = "from the cache: "
"""What a step is called whose result was read."""


@cache
def producer() -> str:
    """Return what makes the numbers: a digest of this package's source, the versions it works with, the machine's kind.

    With the source in it no result of other code is taken for this one's, between releases as well.
    """
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}|".encode())
        digest.update(path.read_bytes())
    return f"{__version__} {digest.hexdigest()} {platform.machine()} {' '.join(map(_version, NUMBERS_FROM))}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def key_of(what: str, parts: Sequence[object]) -> str:
    """Return the key of a step: all that its result depends on, as text; arrays by their content."""
    text, arrays = pack(tuple(parts))
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return json.dumps([what, producer(), digest.hexdigest()])


def recalled(
    place: Place | None,
    progress: Progress,
    what: str,
    parts: Parts,
    given: Given | None = None,
) -> Any:
    """Return the result of a step as it was kept; None where it was not, or no place is given."""
    return None if place is None else _read(Store.at(*place), progress, what, key_of(what, parts()), given)


def _read(store: Store, progress: Progress, what: str, key: str, given: Given | None) -> Any:
    if not store.has(key):
        return None
    with progress.step(RECALLED + what, 1) as advance:
        found = store.load(key, given)
        advance(1)
    return None if found is None else found[0]


def remembered(
    place: Place | None,
    progress: Progress,
    what: str,
    parts: Parts,
    make: Callable[[], T],
    given: Given | None = None,
) -> T:
    """Return what `make` gives: read where it was made before from the same parts, else made now and kept.

    place: None: nothing is kept. given: what the value refers to and is at hand whenever it is asked for. A value is
    never None. Raises GoalError where the folder cannot be used, and what `make` raises.
    """
    if place is None:
        return make()
    store, key = Store.at(*place), key_of(what, parts())
    known = _read(store, progress, what, key, given)
    if known is not None:
        return cast("T", known)
    start = time.perf_counter()
    value = make()
    store.save(key, what, time.perf_counter() - start, value, given)
    return value
