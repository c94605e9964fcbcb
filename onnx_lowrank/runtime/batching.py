"""Samples together in one call: which fit together, how they are joined and split again, how many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnx_lowrank.errors import RuntimeProblem
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed


def rows_of(feed: Feed) -> int:
    """Return the length of the leading axis that the inputs of one sample share, 1 where they have none."""
    sizes = {array.shape[0] for array in feed.values() if array.ndim}
    return sizes.pop() if len(sizes) == 1 else 1


def batches(feeds: Iterable[Feed], size: int) -> Iterator[list[Feed]]:
    """Yield runs of at most `size` neighbouring samples whose arrays agree in all but the leading axis."""
    run: list[Feed] = []
    for feed in feeds:
        if run and (len(run) >= size or _layout(run[0]) != _layout(feed)):
            yield run
            run = []
        run.append(feed)
    if run:
        yield run


def _layout(feed: Feed) -> tuple[Any, ...]:
    return tuple((name, array.shape[1:], array.dtype.str) for name, array in sorted(feed.items()))


def join(feeds: Sequence[Feed]) -> Feed:
    """Return one feed of several samples, along the leading axis."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def split(outputs: Mapping[str, Array], feeds: Sequence[Feed]) -> list[dict[str, Array]]:
    """Return the outputs of a joined run, a dict a sample."""
    if len(feeds) == 1:
        return [dict(outputs)]
    cuts = np.cumsum([rows_of(feed) for feed in feeds])[:-1]
    parts = {name: np.split(array, cuts) for name, array in outputs.items()}
    return [{name: values[i] for name, values in parts.items()} for i in range(len(feeds))]


def batch_size(runner: Runner, feeds: Sequence[Feed], most: int = 8) -> int:
    """Return how many samples may be run together: `most`, or 1 where batching would change a result.

    Measured, not assumed: the first two samples of one layout are run alone and together.
    """
    if any(not array.ndim for feed in feeds[:1] for array in feed.values()):
        return 1
    pair = next((run for run in batches(feeds[:64], 2) if len(run) == 2), None)
    if pair is None:
        return 1
    alone = [runner.run(feed) for feed in pair]
    try:
        together = runner.run(join(pair))
    except RuntimeProblem:
        return 1
    rows = sum(rows_of(feed) for feed in pair)
    if any(not isinstance(a, np.ndarray) or not a.ndim or a.shape[0] != rows for a in together.values()):
        return 1
    for by_itself, in_batch in zip(alone, split(together, pair), strict=True):
        if not all(_same(by_itself[name], in_batch[name]) for name in by_itself):
            return 1
    return most


def _same(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    if not np.issubdtype(first.dtype, np.floating):
        return bool(np.array_equal(first, second))
    scale = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    rtol, atol = (1e-3, 1e-4) if first.dtype.itemsize >= 4 else (1e-2, 2e-3)  # half precision has three digits
    return bool(np.allclose(first, second, rtol=rtol, atol=atol * scale, equal_nan=True))
