"""New weights of a large model go to a temporary file as they are made: no candidate is in memory as a whole."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.large import PAGE
from onnx_lowrank.graph.mapped import LEAST, is_mapped, mapped_tensors, place_in, tensor_array


@dataclass(slots=True, eq=False)
class Scratch:
    """A file that grows. keep: whether it stays until the process ends, for a model that is handed out."""

    path: Path
    keep: bool = False

    def move_out(self, tensor: onnx.TensorProto) -> None:
        """Have a tensor's numbers lie in the file. Raises ModelError where it cannot be written."""
        raw = tensor.raw_data or tensor_array(tensor).tobytes()
        try:
            with self.path.open("ab") as file:
                file.write(bytes(-file.tell() % PAGE))
                offset = file.tell()
                file.write(raw)
        except OSError as error:
            raise ModelError(
                f"cannot write {self.path}, where new weights are kept meanwhile: {error.strerror}; set TMPDIR to a"
                " place with as much room as the model takes"
            ) from error
        place_in(tensor, self.path, offset, len(raw))


_CURRENT: ContextVar[Scratch | None] = ContextVar("scratch", default=None)


@contextmanager
def scratch(model: onnx.ModelProto) -> Iterator[Scratch | None]:
    """Let new weights that are made in here lie in a file, which goes at the end; None where the model is small.

    Models made in here are of no use behind it, but for sessions that have opened them, or with `keep`.
    """
    if not any(mapped_tensors(model)):
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="onnx-lowrank-"))
    made = Scratch(folder.resolve() / "new-weights")
    token = _CURRENT.set(made)
    try:
        yield made
    finally:
        _CURRENT.reset(token)
        if made.keep:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def move_out(tensor: onnx.TensorProto) -> None:
    """Have a new weight lie in the file of the `scratch` around, if there is one and the weight is large."""
    current = _CURRENT.get()
    if current is not None and not is_mapped(tensor) and len(tensor.raw_data) >= LEAST:
        current.move_out(tensor)
