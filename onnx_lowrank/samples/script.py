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
from onnx_lowrank.samples.records import Raw

DEFAULT = "load_data"


def parse(text: str) -> tuple[Path, str] | None:
    """Return the file and the function of FILE.py[:function], None for any other text."""
    match = re.fullmatch(r"(.+\.py)(?::(\w+))?", text)
    return (Path(match[1]), match[2] or DEFAULT) if match else None


def read_script(path: Path, function: str, inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples that a function of a Python file yields or returns.

    Raises DataError for everything that goes wrong in it, with the line, the user's exception as its cause.
    """
    source = f"{path}:{function}"
    if not path.is_file():
        raise DataError(f"{path}: no such file; give FILE.py or FILE.py:function")
    with running(source, path, DataError):
        load = _function(path, function)
        given = load()
        if given is None or not (hasattr(given, "get_next") or hasattr(given, "__iter__")):
            raise DataError(
                f"{source} returned a {type(given).__name__}; yield dicts of input name -> array, or (dict, label)"
            )
        return from_python(given, inputs, source)


def _function(path: Path, name: str) -> Any:
    title = f"onnx_lowrank_data_{path.stem}"
    module = module_of(path, title, DataError)
    load = getattr(module, name, None)
    if callable(load):
        return load
    own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == title]
    raise DataError(f"{path} has no function {name!r}; its functions are {listed(own)}: give {path.name}:function")
