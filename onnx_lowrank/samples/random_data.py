"""Random samples, for when there are no data at all: shapes and types are the model's, values mean nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.samples.conform import check_inputs
from onnx_lowrank.samples.decoder import filled_in
from onnx_lowrank.samples.intake import content_hash
from onnx_lowrank.samples.sets import Lazy, Samples
from onnx_lowrank.types import Array

SHORT, WIDE = 16, 64
"""Size of a free dimension after the first: in inputs of up to three axes (tokens), and of four and more (pixels)."""


@dataclass(frozen=True, slots=True)
class RandomData:
    """A source of invented samples, so many of them; a type of its own, so that no word and no path can mean it.

    shapes: of inputs whose dimensions are free, (name, dimensions) each; of others the defaults of `random_samples`.
    """

    count: int = 64
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


RANDOM = RandomData()
"""Give this where samples are asked for to try things without any."""


def random_samples(
    inputs: Sequence[TensorSpec], count: int, seed: int, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> Samples:
    """Return `count` unlabelled samples, the same for the same seed, each made when it is asked for.

    Floats are standard normal, integers and booleans 0 or 1, texts "a". A free first dimension (the batch) is 1,
    another free one 16, or 64 where the input has four axes or more; dimensions of one name have one size, the
    smallest. A decoder's cache is empty, so that what is as long as the text and the cache is as long as the text.
    shapes: those of inputs that are given, and with them of dimensions of the same names elsewhere. Raises
    DataError for a model whose inputs numpy cannot hold, for a count below 1, and for a shape that is not an input's.
    """
    check_inputs(inputs)
    if count < 1:
        raise DataError(f"the number of random samples must be 1 or more, not {count}")
    inputs = [_shaped(spec, shapes) for spec in _known(inputs, shapes or {})] if shapes else inputs
    sizes = _named(inputs)
    feeds = Lazy(count, lambda index: _feed(inputs, sizes, np.random.default_rng([seed, index])))
    return Samples(feeds, None, "random", tuple(content_hash(feed) for feed in feeds))


def _known(inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> Sequence[TensorSpec]:
    """Return the inputs, dimensions of the names that are told of with their sizes. Raises DataError."""
    names = [spec.name for spec in inputs]
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in names:
            raise DataError(f"--input-shape {name}: no input is called so; the inputs are {', '.join(names)}")
        spec = inputs[names.index(name)]
        told = "x".join(map(str, shape))
        fits = len(shape) == len(spec.shape) and all(
            size > 0 and (not isinstance(own, int) or own < 0 or own == size)
            for own, size in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            model = "x".join("?" if size is None else str(size) for size in spec.shape)
            raise DataError(f"--input-shape {name}: {told} does not fit, the model has {model}")
        for own, size in zip(spec.shape, shape, strict=True):
            if isinstance(own, str) and sizes.setdefault(own, size) != size:
                raise DataError(f"--input-shape {name}: the dimension {own!r} is {sizes[own]} and {size}")
    return [
        replace(spec, shape=tuple(sizes.get(s, s) if isinstance(s, str) else s for s in spec.shape)) for spec in inputs
    ]


def _shaped(spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]]) -> TensorSpec:
    return replace(spec, shape=shapes.get(spec.name, spec.shape))


def _named(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                sizes[size] = min(sizes.get(size, WIDE), _default(axis, len(spec.shape)))
    return sizes


def _default(axis: int, rank: int) -> int:
    if axis == 0:
        return 1
    return SHORT if rank < 4 else WIDE


def _feed(inputs: Sequence[TensorSpec], sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    made = {spec.name: _array(spec, _shape(spec, sizes), rng) for spec in inputs}
    empty = {spec.name: filled_in(spec) for spec in inputs}
    return {name: array if (given := empty[name]) is None else given for name, array in made.items()}


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, str):
            shape.append(sizes[size])
        else:
            shape.append(_default(axis, len(spec.shape)) if size is None or size < 0 else size)
    return tuple(shape)


def _array(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = spec.dtype
    if dtype is None or dtype.kind == "U":
        return np.full(shape, "a")
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)
