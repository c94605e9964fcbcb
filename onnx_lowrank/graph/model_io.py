"""Read and write models: external data, checks, atomic saving. The only caller of onnx.save."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files import is_among, refuse_special, spare
from onnx_lowrank.graph.large import fits_protobuf, without_data, without_initializers, write_apart
from onnx_lowrank.graph.mapped import (
    PACKED,
    is_mapped,
    keep_apart,
    mapped_bytes,
    mapped_tensors,
    place_in,
    raw_bytes,
    tensor_array,
)

OLDEST_OPSET = 7
"""Older operators broadcast and pad by other rules than the ones this package writes."""


def load(path: Path) -> onnx.ModelProto:
    """Return the model; where its weights are large, they stay in their file (`mapped`).

    Raises ModelError, one line, for all that can be wrong.
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file; give the path of an .onnx model")
    if path.is_dir():
        raise ModelError(f"{path} is a directory; give the .onnx file in it")
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX model (not a readable protobuf); export it again") from error
    _look_over(model, path)
    files = [(tensor, _file_of(tensor, path)) for tensor in external_tensors(model)]
    weights = {id(tensor) for tensor in model.graph.initializer}
    try:
        keep_apart([pair for pair in files if id(pair[0]) in weights])
        for tensor, file in files:
            if not is_mapped(tensor):
                _read_in(tensor, file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: its external data cannot be read: {error}") from error
    return model


def _file_of(tensor: onnx.TensorProto, path: Path) -> Path:
    """Return the file that a tensor of a model lies in, links followed.

    It has to lie in the folder of the model, or, where the model is a link itself (as hubs lay out what they fetch, in
    a folder of blobs), in that of the file that it leads to: a model that comes from elsewhere names no other files.
    Raises ModelError where it does not, is missing, or too short for the tensor (older onnx reads what there is).
    """
    where = f"{path}: weight {tensor.name!r} lies"
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:
        raise ModelError(f"{where} at no place that can be read ({error}): export the model again") from error
    named = Path(info.location)
    place = path.parent / named
    if named.is_absolute() or ".." in named.parts or not named.parts:
        raise ModelError(
            f"{where} in {info.location!r}, outside of the model's folder: export it with its data beside it"
        )
    real = Path(os.path.realpath(place))
    folders = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}
    if not any(real.is_relative_to(folder) for folder in folders):
        raise ModelError(
            f"{where} in {info.location!r}, a link that leads out of the model's folder: copy the file there"
        )
    if not real.is_file():
        raise ModelError(f"{where} in {info.location!r}, which is missing; copy it beside the model")
    if (
        real.stat().st_size < (info.offset or 0) + (info.length or 0)
        or (info.offset or 0) < 0
        or (info.length or 0) < 0
    ):
        raise ModelError(f"{where} beyond the end of {info.location!r}; copy the external data again")
    return real


def _read_in(tensor: onnx.TensorProto, file: Path) -> None:
    """Read a tensor's numbers from its file into memory."""
    info = ExternalDataInfo(tensor)
    with file.open("rb") as data:
        data.seek(info.offset or 0)
        content = data.read(info.length) if info.length else data.read()
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
    tensor.raw_data = content


def _look_over(model: onnx.ModelProto, path: Path) -> None:
    if not model.HasField("graph") or not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model (no graph or no opset in it); export it again")
    opset = main_opset(model)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"{path} uses opset {opset}; {OLDEST_OPSET} to {newest} can be read here: export it with another opset,"
            " or convert it with onnx.version_converter"
        )


def main_opset(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set, or the newest known where only other domains are used."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return int(versions[0]) if versions else int(onnx.defs.onnx_opset_version())


def external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors whose data lie in another file."""
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if uses_external_data(tensor):
            yield tensor


@dataclass(frozen=True, slots=True)
class Apart:
    """How weights go to files of their own. always: also where one file would do. shard: bytes of each at most."""

    always: bool = False
    shard: int | None = None


IF_NEEDED = Apart()


def store(model: onnx.ModelProto, path: Path, apart: Apart = IF_NEEDED, name: str = "") -> list[Path]:
    """Write the model, and beside it `<name>.data` where it is over protobuf's limit. Return the files written.

    name: of the file of weights, another one. Not atomic: for temporary places; a user's file comes from `staged`.
    """
    if fits_protobuf(model) and not apart.always and apart.shard is None:
        onnx.save(model, str(path), format="protobuf")  # whatever its suffix: the only form onnxruntime reads
        return [path]
    return write_apart(model, path, name or data_file(path).name, apart.shard)


def data_file(path: Path) -> Path:
    """Return where the weights of a model too big for one file go: beside it."""
    return path.parent / f"{path.name}.data"


def _free_name(target: Path) -> str:
    """Return a name for the file of weights that nothing beside a target has, so that old weights stay as they are
    until the model that names them is replaced.
    """
    taken = {path.name for path in target.parent.glob(f"{glob.escape(target.name)}.*data*")}
    for name in (data_file(target).name, *(f"{target.name}.{number}.data" for number in range(2, len(taken) + 3))):
        if not any(other == name or other.startswith(f"{name}-") for other in taken):
            return name
    raise AssertionError("as many names as files, and one more")


def own_weights(target: Path) -> list[Path]:
    """Return the files of weights that a model which is there now names, and this package has written beside it."""
    try:
        files = model_files(target)[1:] if target.is_file() else []
    except (DecodeError, OSError, ValueError):
        return []
    ours = re.compile(re.escape(target.name) + r"(\.\d+)?\.data(-\d{5}-of-\d{5})?")
    return [file for file in files if file.parent == target.parent and ours.fullmatch(file.name)]


@contextmanager
def staged(model: onnx.ModelProto, target: Path, apart: Apart = IF_NEEDED) -> Iterator[StagedModel]:
    """Write the model to a hidden directory beside `target`; nothing stays there unless `publish` is called.

    Same file system, so that publishing is a rename. Raises ModelError where the place cannot be written.
    """
    refuse_special(target)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".onnx-lowrank-", dir=target.parent))
    except OSError as error:
        raise ModelError(f"cannot write to {target.parent}: {error.strerror}; choose another place with -o") from error
    try:
        try:
            files = store(model, folder / target.name, apart, _free_name(target))
        except OSError as error:
            raise ModelError(f"cannot write {target}: {error.strerror}; choose another place with -o") from error
        yield StagedModel(folder / target.name, files, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class StagedModel:
    """A model on disk that is not yet in the user's place."""

    def __init__(self, path: Path, files: list[Path], target: Path) -> None:
        self.path = path
        self.files = files
        self.target = target

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.stat().st_size for file in self.files)

    def publish(self, inputs: Iterable[Path] = ()) -> None:
        """Move the files into place: weights under a name that nothing has, then the model, which names them.

        So an interrupt leaves the old model with its weights, or the new one with its own. Weights of the model that
        was replaced go at the end. Raises ModelError, and moves none, where one would replace one of `inputs`, a
        directory or a device.
        """
        inputs = tuple(inputs)
        for file in self.files:
            refuse_special(self.target.parent / file.name)
            spare(self.target.parent / file.name, inputs)
        before, mode = own_weights(self.target), 0o666 & ~_umask()
        for file in reversed(self.files):
            file.chmod(mode)
            os.replace(file, self.target.parent / file.name)
        for file in before:
            if file.name not in {new.name for new in self.files} and not is_among(file, inputs):
                file.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of any content atomically. Raises ModelError where the place cannot be written."""
    refuse_special(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".onnx-lowrank-", dir=path.parent) as folder:
            aside = Path(folder) / path.name
            aside.write_bytes(content)
            os.replace(aside, path)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}; choose another place") from error


class Level(IntEnum):
    """The checks that a model passes, each level with all below it; onnxruntime accepts more than onnx.checker."""

    LOADS = 0
    BASIC = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """The level that a model passes, and the first line of why it is not a higher one."""

    level: Level = Level.FULL
    why: str = ""


def standing(model: onnx.ModelProto | Path) -> Standing:
    """Return how far a model that onnxruntime loads passes onnx.checker, in its file or in memory."""
    if isinstance(model, onnx.ModelProto) and not fits_protobuf(model):
        with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
            return standing(store(model, Path(folder) / "model.onnx")[0])
    if isinstance(model, Path) and _linked(model):  # onnx.checker refuses links, whatever lies behind them
        return _standing_of_stand_in(load(model))
    why = _objection(model, Level.FULL)
    if not why:
        return Standing()
    basic = _objection(model, Level.BASIC)
    return Standing(Level.LOADS, basic) if basic else Standing(Level.BASIC, why)


def _linked(path: Path) -> bool:
    """Return whether a model's external data are reached by links."""
    model = onnx.load(str(path), format="protobuf", load_external_data=False)
    return any((path.parent / ExternalDataInfo(tensor).location).is_symlink() for tensor in external_tensors(model))


def _standing_of_stand_in(model: onnx.ModelProto) -> Standing:
    """Return the same of a model whose large weights lie in a file of nothing but holes: the checker reads none."""
    if not any(mapped_tensors(model)):
        return standing(model)
    with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder:
        copy, data = onnx.ModelProto(), Path(folder) / "weights"
        copy.CopyFrom(model)
        with data.open("wb") as file:
            for tensor in mapped_tensors(copy):
                length = mapped_bytes(tensor)
                file.truncate(max(length, data.stat().st_size))
                place_in(tensor, Path(data.name), 0, length)
        (Path(folder) / "model.onnx").write_bytes(copy.SerializeToString())
        return standing(Path(folder) / "model.onnx")


def check(path: Path, level: Level = Level.FULL) -> None:
    """Check a file at a level of onnx.checker. Raises ModelError with the first line of its message."""
    why = _objection(path, level)
    if why:
        raise ModelError(f"{path.name} does not pass onnx.checker: {why}")


def _objection(model: onnx.ModelProto | Path, level: Level) -> str:
    """Return the first line of why onnx.checker refuses a model at a level, nothing where it does not."""
    if level is Level.LOADS:  # opening it is left to onnxruntime
        return ""
    try:
        target = str(model) if isinstance(model, Path) else model
        onnx.checker.check_model(target, full_check=level is Level.FULL)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ""


def content_hash(model: onnx.ModelProto, *, metadata: bool = True) -> str:
    """Return the SHA-256 of the model's content, wherever its weights are stored (weights in memory).

    Without `metadata` that of the model as a whole is left out, in which tools leave notes.
    """
    digest = hashlib.sha256()
    skeleton, heads = without_initializers(model), []
    if not metadata:
        del skeleton.metadata_props[:]
    for tensor in model.graph.initializer:  # from where they are: one is copied at a time
        heads.append(tensor if tensor.data_type == onnx.TensorProto.STRING else without_data(tensor))
        _digest(tensor, digest)
    for tensor in onnx.external_data_helper._get_all_tensors(skeleton):
        if _digest(tensor, digest):
            tensor.CopyFrom(without_data(tensor))
    skeleton.graph.initializer.extend(heads)
    digest.update(skeleton.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _digest(tensor: onnx.TensorProto, digest: Any) -> bool:
    """Take a tensor's name, type, shape and numbers into a digest. Return whether it has numbers."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return False
    digest.update(f"{tensor.name}|{tensor.data_type}|{list(tensor.dims)}|".encode())
    digest.update(_content(tensor))
    return True


def _content(tensor: onnx.TensorProto) -> Any:
    """Return a tensor's numbers as bytes: of a mapped one without a copy."""
    if is_mapped(tensor) and tensor.data_type not in PACKED and sys.byteorder == "little":
        return raw_bytes(tensor)
    return tensor_array(tensor).tobytes()


def file_bytes(path: Path) -> int:
    """Return the size of a model's files, external data included."""
    return sum(file.stat().st_size for file in model_files(path))


def model_files(path: Path) -> list[Path]:
    """Return the files that a model lies in: its own, then those of its external data. The model must be readable."""
    model = onnx.load(str(path), format="protobuf", load_external_data=False)
    others = {ExternalDataInfo(tensor).location for tensor in external_tensors(model)}
    return [path, *(path.parent / name for name in sorted(others))]
