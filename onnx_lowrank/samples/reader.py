"""What a reader of samples is: it knows its sources when it sees them, and returns their samples unchecked.

Checking against the model, casting, hashing and splitting come after it and are the same for all (intake.take).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.records import Raw

Read: TypeAlias = Callable[[Any, Sequence[TensorSpec]], Raw]
"""Returns the samples of a source for a model's inputs. Raises DataError, one line, for what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One form in which samples come.

    name: what tests and documents call it. form: what to give, for errors and --help: "an .npz or .npy".
    takes: whether a source is of this form, by its type or its path; it reads nothing and raises nothing.
    read: the samples; it is given only what `takes` has accepted.
    is_path: whether sources are paths (str or Path), as a command line can give them, or else objects of Python.
    place: the file or directory that a path names, for a form whose text is more than a path.
    """

    name: str
    form: str
    takes: Callable[[Any], bool]
    read: Read
    is_path: bool = True
    place: Callable[[str | Path], Path] = Path


def is_file_of(source: Any, *suffixes: str) -> bool:
    """Return whether `source` is the path of an existing file with one of these suffixes (".npz")."""
    if not isinstance(source, str | Path) or Path(source).suffix.lower() not in suffixes:
        return False
    return os.path.exists(source) and not os.path.isdir(source)  # unlike pathlib's, these raise nothing


def is_folder(source: Any) -> bool:
    """Return whether `source` is the path of an existing directory."""
    return isinstance(source, str | Path) and os.path.isdir(source)
