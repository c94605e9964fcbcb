"""Decoders with a key–value cache: what they take besides tokens, and what they give back besides scores.

An exported decoder goes on from a cache of what it has read (`past_key_values.0.key` and so on) and returns it, longer
by its tokens (`present.0.key`). Samples begin with an empty one, whose shape is in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.runtime.runner import TensorSpec
from onnx_lowrank.types import Array

PAST, PRESENT, SWITCH = "past", "present", "use_cache_branch"
LEAST_AXES = 3
"""A cache has a batch, a length and a width, and mostly heads."""


def is_cache(spec: TensorSpec) -> bool:
    """Return whether an input is a part of a cache that may be empty: floats, with a free axis besides the batch."""
    return _floats(spec, PAST) and any(_free(size) for size in spec.shape[1:])


def is_cache_output(spec: TensorSpec) -> bool:
    """Return whether an output is a part of the cache."""
    return _floats(spec, PRESENT)


def _floats(spec: TensorSpec, word: str) -> bool:
    kind = spec.dtype
    named = spec.name.lower().replace("/", ".").split(".")
    return (
        kind is not None and kind.kind == "f" and len(spec.shape) >= LEAST_AXES
        and any(part.startswith(word) for part in named)
    )  # fmt: skip


def is_switch(spec: TensorSpec) -> bool:
    """Return whether an input says if there is a cache (decoders of two branches in one graph)."""
    return spec.name == SWITCH and spec.dtype == np.bool_


def has_cache(inputs: Sequence[TensorSpec]) -> bool:
    """Return whether a model goes on from a cache."""
    return any(map(is_cache, inputs))


def filled_in(spec: TensorSpec) -> Array | None:
    """Return what an input is given where a sample has nothing for it: an empty cache, no cache; None for others."""
    if is_switch(spec):
        return np.zeros([1 if _free(size) else int(size or 1) for size in spec.shape], np.bool_)
    if not is_cache(spec):
        return None
    sizes = [(0 if axis else 1) if _free(size) else int(size) for axis, size in enumerate(spec.shape)]  # type: ignore[arg-type]
    return np.zeros(sizes, spec.dtype)


def counting(outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the outputs that count unless the user says otherwise: all but a cache; none named where there is none.

    Keys and values are read by later calls through attention, which the scores of these tokens already went through;
    counted as outputs of their own, they made the scores' divergence four to six times worse.
    """
    if not any(map(is_cache_output, outputs)):
        return ()
    return tuple(spec.name for spec in outputs if not is_cache_output(spec))


def cache_note(counted: Sequence[str]) -> str:
    """Return the note on what counts of a decoder's outputs."""
    return f"outputs of the key–value cache do not count: {', '.join(counted)} alone; --output names others"


def _free(size: int | str | None) -> bool:
    return not isinstance(size, int) or size < 0
