"""One sample against the model's inputs: names, number types and shapes, all checked before onnxruntime sees it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec, first_line
from onnx_lowrank.samples.decoder import filled_in
from onnx_lowrank.samples.records import LABELS, GroupSpec
from onnx_lowrank.types import Array


def fit(arrays: Mapping[str, Any], inputs: Sequence[TensorSpec], place: str) -> dict[str, Array]:
    """Return the sample ready to run, its arrays in the order of the inputs.

    A decoder's cache is empty where the sample has none. Types change only where no value does, or from a wider float
    to a narrower one; an array one axis short gets its batch axis. Raises DataError, beginning with `place`, for
    everything else.
    """
    missing = {spec.name: filled_in(spec) for spec in inputs if spec.name not in arrays}
    arrays = {**arrays, **{name: array for name, array in missing.items() if array is not None}}
    check_names(arrays, inputs, place)
    feed = {}
    for spec in inputs:
        array = cast(as_array(arrays[spec.name], spec.name, place), spec, place)
        feed[spec.name] = np.asarray(shaped(array, spec, place), order="C")
    return feed


def check_inputs(inputs: Sequence[TensorSpec]) -> None:
    """Raise DataError for a model that no data can be given to."""
    if not inputs:
        raise DataError("the model has no input, so no data can be given to it; take a model that has one")
    for spec in inputs:
        if spec.dtype is None:
            raise DataError(
                f"the model's input {spec.name!r} is {spec.type}, which numpy cannot hold;"
                " export the model with float32 or integer tensors as inputs"
            )


def check_names(given: Iterable[str], inputs: Sequence[TensorSpec], place: str) -> None:
    """Raise DataError unless there is one array for every input, and no other."""
    keys = [str(key) for key in given]
    names = [spec.name for spec in inputs]
    unknown = [key for key in keys if key not in names]
    for spec in inputs:
        name = spec.name
        if name not in keys and isinstance(spec, GroupSpec):
            raise DataError(
                f"{place}: no key {name!r}, which --groups names; the keys given are {listed(keys)}: add it, one"
                " value a sample, or leave --groups out"
            )
        if name not in keys:
            raise DataError(
                f"{place}: nothing for the model's input {name!r}; the keys given are {listed(keys)}"
                f"{nearest(name, unknown)}; name each array after its input"
            )
    for key in unknown:
        raise DataError(
            f"{place}: {key!r} is not an input of the model, which takes {listed(names)}"
            f"{nearest(key, [*names, LABELS])}; rename it or leave it out"
        )


def nearest(name: str, others: Sequence[str]) -> str:
    """Return " (did you mean …?)" where one of the others is spelt much alike."""
    folded = {other.lower(): other for other in others}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    return f" (did you mean {folded[close[0]]!r}?)" if close else ""


def listed(names: Sequence[str]) -> str:
    """Return the names for an error, at most eight of them."""
    shown = ", ".join(repr(name) for name in names[:8]) or "none"
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def as_array(value: Any, name: str, place: str) -> Array:
    """Return the value as an array; numpy and torch say in different ways that it cannot be one."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{place}: {name!r} is not an array: {first_line(error)}; give a numpy array") from error


def cast(array: Array, spec: TensorSpec, place: str) -> Array:
    """Return the array in the input's type: exactly, or a float rounded to a narrower float."""
    want, have = _wanted(spec), array.dtype
    if want.kind == "U":
        return _text(array, spec, place)
    if have == want:
        return array
    if have.kind == "f" and want.kind == "f":
        return _float(array, want, spec, place)
    # Not numpy.can_cast: it calls int64 to float64 safe, and 2**53 + 1 is not.
    if have.kind in "biu" and _in_range(array, want):
        return array.astype(want)
    if have.kind in "iu":
        raise DataError(
            f"{place}: input {spec.name!r} takes {want}, and the {have} values given reach from {array.min()} to"
            f" {array.max()}, more than {want} holds exactly; give values within its range"
        )
    raise DataError(f"{place}: input {spec.name!r} takes {want}, and the data are {_called(have)}; save them as {want}")


def _wanted(spec: TensorSpec) -> np.dtype[Any]:
    if spec.dtype is None:
        raise DataError(f"the model's input {spec.name!r} is {spec.type}, which numpy cannot hold")
    return spec.dtype


def _called(dtype: np.dtype[Any]) -> str:
    return {"O": "Python objects", "U": "text", "S": "bytes", "V": f"of a type numpy lacks ({dtype})"}.get(
        dtype.kind, str(dtype)
    )


def _in_range(array: Array, want: np.dtype[Any]) -> bool:
    """Whether every integer between the least and the greatest value of the array is exact in `want`."""
    if not array.size:
        return True
    if want.kind == "b":
        low, high = 0, 1
    elif want.kind == "f":
        high = 2 ** (np.finfo(want).nmant + 1)
        low = -high
    else:
        low, high = int(np.iinfo(want).min), int(np.iinfo(want).max)
    return low <= int(array.min()) and int(array.max()) <= high


def _float(array: Array, want: np.dtype[Any], spec: TensorSpec, place: str) -> Array:
    with np.errstate(over="ignore"):
        narrow: Array = array.astype(want)
    if want.itemsize < array.dtype.itemsize and not np.array_equal(np.isinf(narrow), np.isinf(array)):
        raise DataError(
            f"{place}: input {spec.name!r} takes {want}, and the {array.dtype} values given reach"
            f" {np.abs(array[np.isfinite(array)]).max():.3g}, beyond its range; scale them as the model expects"
        )
    return narrow


def _text(array: Array, spec: TensorSpec, place: str) -> Array:
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind in "OT" and all(isinstance(value, str) for value in array.ravel()):
        return array.astype(np.str_)
    raise DataError(
        f"{place}: input {spec.name!r} takes text, and the data are {_called(array.dtype)}; give an array of str"
    )


def shaped(array: Array, spec: TensorSpec, place: str) -> Array:
    """Return the array, with a batch axis where only that is missing.

    onnxruntime shows a scalar and a tensor of unknown rank alike, as no dimensions: both pass as they are.
    """
    if not spec.shape or _agree(array.shape, spec.shape):
        return array
    if _agree((1, *array.shape), spec.shape):
        return array[np.newaxis]
    mend = "give every sample the model's shape"
    if _agree(array.shape[1:], spec.shape[1:]) and array.ndim:
        mend = f"one sample has {spec.shape[0]} on the first axis; many go into one .npz, along the leading axis"
    raise DataError(
        f"{place}: input {spec.name!r} takes {shape_text(spec)}, and the sample's array is {list(array.shape)}; {mend}"
    )


def _agree(shape: tuple[int, ...], wanted: tuple[int | str | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    fixed = [(size, want) for size, want in zip(shape, wanted, strict=True) if isinstance(want, int) and want >= 0]
    return all(size == want for size, want in fixed)


def shape_text(spec: TensorSpec) -> str:
    """Return the input's shape for an error: [batch, 3, 224, ?]."""
    return "[" + ", ".join("?" if size is None else str(size) for size in spec.shape) + "]"
