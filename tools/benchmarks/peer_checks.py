"""Two models side by side: how far their outputs are apart, and what one takes of the other's time at a batch size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.curves import triple
from onnx_lowrank.errors import RuntimeProblem
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.runtime.batching import join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Runs, interleaved
from onnx_lowrank.types import Feed


def farthest(one: Runs, other: Runs, feeds: Iterable[Feed]) -> float:
    """Return the largest difference between two models' outputs over the first's largest output, sample by sample.

    NaN where either has one.
    """
    apart, size = [0.0], [0.0]
    for feed in feeds:
        first, second = one.run(feed), other.run(feed)
        apart += [float(np.abs(array - second[name]).max(initial=0.0)) for name, array in first.items()]
        size += [float(np.abs(array).max(initial=0.0)) for array in first.values()]
    most, largest = float(np.max(apart)), float(np.max(size))
    return most / largest if largest else most


def latency(
    first: Runner, second: Runner, feeds: Sequence[Feed], size: int, *, seed: int, seconds: float
) -> dict[str, Any]:
    """Return ratio and milliseconds at `size` samples a call, or the reason why there are none."""
    fixed = [spec.name for each in (first, second) for spec in each.inputs if spec.shape and spec.shape[0] == 1]
    if size > 1 and fixed:
        return {"reason": f"the batch axis of {fixed[0]} is fixed"}
    given = timed_feeds(together(feeds, size))
    if not given:
        return {"reason": f"no {size} samples have one shape"}
    try:
        timing = interleaved(first, second, given, seed=seed, seconds=seconds)
    except RuntimeProblem as error:
        return {"reason": str(error)}
    return {
        "reason": "", "ratio": triple(timing.ratio), "milliseconds": [timing.first_ms, timing.second_ms],
        "pairs": timing.pairs, "calls": len(given),
    }  # fmt: skip


def together(feeds: Iterable[Feed], size: int) -> Iterator[Feed]:
    """Yield feeds of `size` samples of equal shapes each, wherever they stand; what is left over is left out."""
    waiting: dict[tuple[Any, ...], list[Feed]] = {}
    for feed in feeds:
        layout = tuple((name, array.shape, array.dtype.str) for name, array in sorted(feed.items()))
        waiting.setdefault(layout, []).append(feed)
        if len(waiting[layout]) == size:
            yield join(waiting.pop(layout))
