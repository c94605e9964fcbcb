"""FILE.py[:load_data]: a function of the user's that yields samples. The only reader that runs code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.runtime.user_code import module_of, running
from onnx_lowrank.samples.conform import listed
from onnx_lowrank.samples.iterables import from_python
from onnx_lowrank.samples.reader import Reader
from onnx_lowrank.samples.records import Raw

DEFAULT = "load_data"


def _parts(source: Any) -> re.Match[str] | None:
    """Return the match of FILE.py[:function], there or not: the file and the function; None for any other source."""
    return re.fullmatch(r"(.+\.py)(?::(\w+))?", str(source)) if isinstance(source, str | Path) else None


def _place(source: str | Path) -> Path:
    parts = _parts(source)
    return Path(source if parts is None else parts[1])


def read_script(source: str | Path, inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples that a function of a Python file yields or returns.

    Raises DataError for everything that goes wrong in it, with the line, the user's exception as its cause.
    """
    parts, path = _parts(source), _place(source)
    function = DEFAULT if parts is None or parts[2] is None else parts[2]
    name = f"{path}:{function}"
    if not path.is_file():
        raise DataError(f"{path}: no such file; give FILE.py or FILE.py:function")
    with running(name, path, DataError):
        loaded = _function(path, function)()
        if loaded is None or not (hasattr(loaded, "get_next") or hasattr(loaded, "__iter__")):
            raise DataError(
                f"{name} returned a {type(loaded).__name__}; yield dicts of input name -> array, or (dict, label)"
            )
        return from_python(loaded, inputs, name)


def _function(path: Path, name: str) -> Any:
    title = f"onnx_lowrank_data_{path.stem}"
    module = module_of(path, title, DataError)
    load = getattr(module, name, None)
    if callable(load):
        return load
    own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == title]
    raise DataError(f"{path} has no function {name!r}; its functions are {listed(own)}: give {path.name}:function")


SCRIPT = Reader(
    name="script",
    form="FILE.py[:load_data]",
    takes=lambda source: _parts(source) is not None,
    read=read_script,
    place=_place,
)
