"""What `polygraphy run --save-inputs` writes: JSON, a dict of arrays a sample, each array an .npy file in base64.

Plain nested lists of numbers in place of an array are read, too. Polygraphy itself is not needed.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec, first_line
from onnx_lowrank.samples.npz import readable
from onnx_lowrank.samples.reader import Reader, is_file_of
from onnx_lowrank.samples.records import Raw, record
from onnx_lowrank.types import Array

CLASS = "polygraphy_class"
LEGACY = "__polygraphy_encoded_ndarray"
"""The key by which older versions of Polygraphy marked an array."""


def read_polygraphy(source: str | Path, inputs: Sequence[TensorSpec]) -> Raw:
    """Return the samples of a file: a list of dicts of arrays."""
    path = Path(source)
    content = _load(path)
    feeds = [_feed(path, item) for item in (content if isinstance(content, list) else [content])]
    return Raw(str(path), [record(feed, inputs) for feed in feeds])


def single_feed(path: Path) -> Mapping[str, Any]:
    """Return the sample of a file of a directory: a dict of arrays, or a list of one such dict."""
    content = _load(path)
    if isinstance(content, list):
        if len(content) != 1:
            raise DataError(
                f"{path} holds {len(content)} samples, and in a directory every file is one; give the file itself"
            )
        content = content[0]
    return _feed(path, content)


def _load(path: Path) -> Any:
    with readable(path, "write it again with polygraphy run --save-inputs"):
        return json.loads(path.read_text(encoding="utf-8"), object_hook=lambda item: _decode(path, item))


def _decode(path: Path, item: dict[str, Any]) -> Any:
    kind = item.get(CLASS) or ("ndarray" if LEGACY in item else None)
    if kind is None:
        return item
    if kind != "ndarray":
        raise DataError(
            f"{path} holds a {kind} of Polygraphy, and only inputs as numpy arrays can be read here;"
            " give what polygraphy run --save-inputs writes"
        )
    return _array(path, item.get("array"))


def _array(path: Path, text: Any) -> Array:
    if not isinstance(text, str):
        raise DataError(f"{path} holds an array without its data; write it again with polygraphy run --save-inputs")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DataError(
            f"{path} holds an array that is not base64 ({first_line(error)});"
            " write it again with polygraphy run --save-inputs"
        ) from error
    return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def _feed(path: Path, item: Any) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise DataError(
            f"{path} holds a {type(item).__name__} where a sample is due; a sample is a dict of input name -> array,"
            " as polygraphy run --save-inputs writes it"
        )
    return item


POLYGRAPHY = Reader(
    name="polygraphy",
    form="a Polygraphy .json",
    takes=lambda source: is_file_of(source, ".json"),
    read=read_polygraphy,
)
