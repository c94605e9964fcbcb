"""Running the user's Python files: their imports work, and their exceptions become one line that says where."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from onnx_lowrank.errors import LowRankError
from onnx_lowrank.runtime.runner import first_line


def module_of(path: Path, title: str, refusal: type[LowRankError]) -> ModuleType:
    """Return the module that a file makes, under that name. Raises `refusal` for no Python, and what the file does."""
    spec = importlib.util.spec_from_file_location(title, path)
    if spec is None or spec.loader is None:
        raise refusal(f"{path} cannot be run as Python; give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def running(what: str, path: Path | None, refusal: type[LowRankError]) -> Iterator[None]:
    """Let a file of the user's import its neighbours, and turn what it raises into one line, a `refusal`.

    Refusals of this package pass as they are.
    """
    before = list(sys.path)
    if path is not None:
        sys.path.insert(0, str(path.resolve().parent))
    try:
        yield
    except LowRankError:
        raise
    except Exception as error:  # a user's code may raise anything; it is passed on as the cause
        line = _line(error, path)
        raise refusal(f"{what} failed{line}: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path[:] = before


def _line(error: Exception, path: Path | None) -> str:
    """Return where in the user's file it failed: the innermost line there."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" in line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path is not None and Path(frame.filename).resolve() == path.resolve()]
    return f" in line {lines[-1]}" if lines else ""
