"""What a run reads and what it will write: nothing that matters is written over, at the start or at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import click
import onnx
from google.protobuf.message import DecodeError

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files import identity, special
from onnx_lowrank.graph.model_io import data_file, model_files, write_bytes
from onnx_lowrank.samples import place_of

State: TypeAlias = tuple[int, int, int, int] | None
OUTPUT = "-o"
REPORTED = "--report"
WATCHED = "onnx_lowrank.outputs"
"""Where a command's context keeps its outputs."""
STANDARD_OUTPUT = Path("-")
"""What stands for standard output where a file is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a run reads, option or argument -> its value; None where it is left out.

    models: with their external data. samples: as --data takes them. code: FILE.py:function, or a word that is no file.
    """

    models: Mapping[str, Path] = field(default_factory=dict)
    samples: Mapping[str, str | None] = field(default_factory=dict)
    code: Mapping[str, str | None] = field(default_factory=dict)
    others: Mapping[str, Path] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield every file that the run may read, with the name of the option or argument that it belongs to."""
        for name, path in self.models.items():
            yield from ((name if file == path else f"{name}'s external data", file) for file in _lies_in(path))
        for name, samples in self.samples.items():
            if samples:
                place = place_of(samples)
                yield from ((name, file) for file in (place, *_inside(place)))
        for name, spec in self.code.items():
            if spec and ":" in spec:
                yield name, Path(spec.rpartition(":")[0])
        yield from self.others.items()


def _lies_in(model: Path) -> list[Path]:
    try:
        return model_files(model)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError):
        return [model]  # what is wrong with it is reported where it is read


def _inside(place: Path) -> Iterator[Path]:
    """Yield the files of a directory of samples: those in it, and those of the test data sets in it."""
    try:
        entries = list(place.iterdir()) if place.is_dir() else []
        for entry in entries:
            yield entry
            if entry.is_dir():
                yield from entry.iterdir()
    except OSError:
        return  # what cannot be listed cannot be read either: reported where it is read


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that a run will write, option -> path, against what it reads and against each other.

    Made before any work, and asked again right before each file is written. Compared are files, not names: links and
    other spellings are seen through. `force` allows to replace what exists, but never an input, nor what is no file.
    """

    inputs: Inputs
    written: Mapping[str, Path]
    force: bool
    before: dict[Path, State] = field(default_factory=dict)

    @staticmethod
    def of(inputs: Inputs, written: Mapping[str, Path | None], *, force: bool) -> Outputs:
        """Return the outputs that were asked for. Raises ModelError where one cannot or must not be written.

        The command that runs knows them even then, as its report is written all the same where only others are barred.
        """
        outputs = Outputs(inputs, {name: path for name, path in written.items() if path is not None}, force)
        context = click.get_current_context(silent=True)
        if context is not None:
            context.meta[WATCHED] = outputs
        for option in (name for name, path in outputs.written.items() if path == STANDARD_OUTPUT and name != REPORTED):
            raise ModelError(f"{option} - is no file: only {REPORTED} can go to standard output")
        for option, path in outputs.places():
            outputs._look(option, path, f"{path} exists")
            _check_place(option, path)
        return outputs

    def places(self) -> Iterator[tuple[str, Path]]:
        """Yield option and path of every file; a model's weights may go to a second one."""
        for option, path in self.written.items():
            if path == STANDARD_OUTPUT:
                continue
            yield option, path
            if option == OUTPUT:
                yield option, data_file(path)

    def ready(self, option: str) -> None:
        """Check again what an option writes, and remember its state. Raises ModelError: it must not be written."""
        for name, path in self.places():
            if name == option:
                self._look(name, path, f"{path} was made by something else during the run, and is left as it is")
                self.before[path] = _state(path)

    def check(self, option: str) -> Callable[[], None]:
        """Return `ready` for one option, to be called right before it is written."""
        return lambda: self.ready(option)

    def write(self, option: str, make: Callable[[], str | bytes]) -> None:
        """Write what is made, if that may still be done; nothing where the option is left out. Raises ModelError."""
        if option not in self.written:
            return
        content = make()
        if self.written[option] == STANDARD_OUTPUT:
            click.echo(content, nl=False)
            return
        self.ready(option)
        write_bytes(self.written[option], content.encode() if isinstance(content, str) else content)

    def done(self) -> list[Path]:
        """Return what was really written so far: the files that are not as they were right before."""
        return [path for path, state in self.before.items() if _state(path) != state]

    def _look(self, option: str, path: Path, exists: str) -> None:
        present = os.path.lexists(path)
        mine = identity(path)
        for name, other in self.places():
            if (name, other) != (option, path) and identity(other) == mine:
                raise ModelError(f"{name} and {option} would write the same file, {path}: give each a place of its own")
        for name, other in self._taken(present):
            if identity(other) == mine:
                raise ModelError(
                    f"{option} would write over {name}, {path}: what is read is never overwritten; choose another place"
                )
        kind = special(path)
        if kind:
            raise ModelError(f"{option}: {path} is {kind}; give the name of a file")
        if present and not self.force:
            raise ModelError(f"{exists}; give --force to replace it, or another place with {option}")

    def _taken(self, present: bool) -> Iterator[tuple[str, Path]]:
        """Yield the files that are read; what is not there cannot be one of them, so models need not be opened."""
        return self.inputs.files() if present else iter(())


def _state(path: Path) -> State:
    try:
        status = path.lstat()  # a link is replaced, not followed
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _check_place(option: str, path: Path) -> None:
    """Raise ModelError where a file cannot be put there."""
    if not path.parent.is_dir():
        raise ModelError(f"cannot write {path}: there is no directory {path.parent}; make it first")
    try:
        with tempfile.TemporaryDirectory(prefix=".onnx-lowrank-", dir=path.parent) as folder:
            (Path(folder) / path.name).touch()
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}; choose another place with {option}") from error
