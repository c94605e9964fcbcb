"""Models beyond 2 GiB, where protobuf ends: counted by parts, and written with their weights in a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from google.protobuf.message import EncodeError

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.mapped import is_mapped, mapped_bytes, mapped_tensors, raw_bytes, tensor_array
from onnx_lowrank.types import Array

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes above which weights go to a file of their own: protobuf ends at 2 GiB."""
SMALL = 1024
"""Bytes of a weight that stays in the model's own file."""
PAGE = 4096
"""Where weights begin, so that they can be mapped into memory."""
DATA = {"raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"}
STORAGE = {*DATA, "external_data", "data_location"}
WORDS = ("float_data", "double_data", "int64_data", "uint64_data")
"""Where a tensor's numbers may lie, each in a word of its own."""


def proto_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of the model as one file, also where it is too large for protobuf to count them.

    By parts: protobuf counts by writing, which would take the model's size in memory once more.
    """
    weights = sum(_entry(_tensor_bytes(tensor)) for tensor in model.graph.initializer)
    head = without_initializers(model)
    graph = head.graph.ByteSize()
    rest: int = head.ByteSize() - _entry(graph)
    return rest + _entry(graph + weights)


def fits_protobuf(model: onnx.ModelProto) -> bool:
    """Return whether the model is to be one file, or one string of bytes: not with weights that stay in others."""
    return proto_bytes(model) < PROTOBUF_LIMIT and not any(mapped_tensors(model))


def _entry(size: int) -> int:
    """Return the bytes of a message of this size within another: a tag below 16 and the length go before it."""
    return 1 + max((size.bit_length() + 6) // 7, 1) + size


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    if is_mapped(tensor):
        return int(without_data(tensor).ByteSize()) + _entry(mapped_bytes(tensor))
    try:
        return int(tensor.ByteSize())
    except EncodeError:
        return int(without_data(tensor).ByteSize()) + _entry(len(tensor.raw_data))


def without_data(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return the tensor's name, type, dims and notes."""
    head: onnx.TensorProto = _but(tensor, STORAGE)
    return head


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of everything but the weights of the main graph."""
    copy: onnx.ModelProto = _but(model, {"graph"})
    copy.graph.CopyFrom(_but(model.graph, {"initializer"}))
    return copy


def _but(message: Any, left_out: set[str]) -> Any:
    """Return a copy of a message without some of its fields."""
    copy = type(message)()
    for field, content in message.ListFields():
        if field.name in left_out:
            continue
        if hasattr(content, "extend"):
            getattr(copy, field.name).extend(content)
        elif field.type == field.TYPE_MESSAGE:
            getattr(copy, field.name).CopyFrom(content)
        else:
            setattr(copy, field.name, content)
    return copy


def write_apart(model: onnx.ModelProto, path: Path, name: str, shard: int | None = None) -> list[Path]:
    """Write the model with the weights of its main graph in other files beside it, one weight at a time.

    name: of that file; with `shard`, the bytes that each may hold at most, `name`-00001-of-00003 and so on. A weight is
    never divided. Return the files written. Raises ModelError where what is left is too large as well: weights in nodes
    or in bodies; OSError.
    """
    head, tensors = without_initializers(model), list(model.graph.initializer)
    lengths = [_length(tensor) for tensor in tensors]
    places = _shards(lengths, shard)
    count = max(places, default=0) + 1
    names = [name] if count == 1 else [f"{name}-{i:05}-of-{count:05}" for i in range(1, count + 1)]
    written: dict[int, onnx.TensorProto] = {}
    for number, each in enumerate(names):
        with (path.parent / each).open("wb") as file:
            for at, place in enumerate(places):
                if place == number:
                    written[at] = _written(tensors[at], file, each)
    head.graph.initializer.extend(written[at] for at in range(len(tensors)))
    try:
        content = _serialized(head)
    except EncodeError as error:
        raise ModelError(
            f"{path.name}: more than 2 GiB of weights lie in nodes or in bodies of loops, which a file cannot hold:"
            " export the model with its weights as initializers"
        ) from error
    path.write_bytes(content)
    return [path, *(path.parent / each for each in names)]


def _length(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor takes in a file of weights; 0: it stays in the model's own."""
    length = mapped_bytes(tensor) if is_mapped(tensor) else len(tensor.raw_data)
    if not length and (raw := _raw(tensor)) is not None:
        length = len(raw)
    return length if length >= SMALL else 0


def _shards(lengths: Sequence[int], shard: int | None) -> list[int]:
    """Return the number of each weight's file: the next one begins where a weight does not fit any more."""
    places, number, held = [], 0, 0
    for length in lengths:
        start = -(-held // PAGE) * PAGE
        if shard is not None and held and length and start + length > shard:
            number, start = number + 1, 0
        held = start + length if length else held
        places.append(number)
    return places


def _serialized(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def _written(tensor: onnx.TensorProto, file: BinaryIO, name: str) -> onnx.TensorProto:
    """Return a weight that lies in the file from now on; a small one, or one of strings, as it is."""
    raw = _raw(tensor)
    if raw is None or len(raw) < SMALL:
        if not is_mapped(tensor):
            return tensor
        small = without_data(tensor)
        small.raw_data = b"" if raw is None else bytes(raw)
        return small
    file.seek(-(-file.tell() // PAGE) * PAGE)
    entry = without_data(tensor)
    entry.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", file.tell()), ("length", len(raw))):
        entry.external_data.add(key=key, value=str(value))
    file.write(raw)
    return entry


def _raw(tensor: onnx.TensorProto) -> bytes | Array | None:
    """Return a tensor's bytes as a file holds them, None where it has none: strings, types that are packed in words."""
    if is_mapped(tensor):
        return raw_bytes(tensor)
    if tensor.HasField("raw_data"):
        return bytes(tensor.raw_data)
    if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED) or not any(
        len(getattr(tensor, f)) for f in WORDS
    ):
        return None
    array = tensor_array(tensor)
    return array.tobytes() if array.dtype.kind in "fiu" and array.dtype.itemsize >= 2 else None


__all__ = ["PROTOBUF_LIMIT", "fits_protobuf", "proto_bytes", "without_data", "without_initializers", "write_apart"]
