"""FILE.py[:load_data]: a function of the user's that yields samples. The only reader that runs code."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import DataError, LowRankError
from onnx_lowrank.runtime import TensorSpec, first_line
from onnx_lowrank.samples.fit import listed
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
    with _users(path, source):
        load = _function(path, function)
        given = load()
        if given is None or not (hasattr(given, "get_next") or hasattr(given, "__iter__")):
            raise DataError(
                f"{source} returned a {type(given).__name__}; yield dicts of input name -> array, or (dict, label)"
            )
        return from_python(given, inputs, source)


def _function(path: Path, name: str) -> Any:
    title = f"onnx_lowrank_data_{path.stem}"
    spec = importlib.util.spec_from_file_location(title, path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} cannot be run as Python; give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module
    spec.loader.exec_module(module)
    load = getattr(module, name, None)
    if callable(load):
        return load
    own = [key for key, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == title]
    raise DataError(f"{path} has no function {name!r}; its functions are {listed(own)}: give {path.name}:function")


@contextmanager
def _users(path: Path, source: str) -> Iterator[None]:
    """Let the file import its neighbours, and name the line where it fails."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except LowRankError:
        raise
    except Exception as error:  # the user's code may raise anything: it is passed on, as the cause
        raise DataError(f"{source} failed{_line(path, error)}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _line(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        return f" in line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    return f" in line {frames[-1].lineno}" if frames else ""
