"""A candidate that other processes run over the samples, in shards; its outputs come back in order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_lowrank.executors import Pool, Work, in_order
from onnx_lowrank.graph.large import fits_protobuf
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.batching import batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Array, Feed

SHARD, MOST = 64, 64
"""Samples in a shard, and shards: so what a batch holds does not depend on the workers, nor does any output."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What workers are told: a model, and how to run it."""

    model: bytes
    runtime: Runtime


class OnWorkers(Runner):
    """A model here, and on workers where many samples are run. `said` is told what became of workers.

    A pool knows one model at a time: the one made last.
    """

    def __init__(
        self, model: onnx.ModelProto, runtime: Runtime, pool: Pool, said: Callable[[str], None] = lambda note: None
    ) -> None:
        packed = model.SerializeToString()
        super().__init__(packed, runtime=runtime)
        self._pool, self._said = pool, said
        pool.tell(Work(outputs_of, Candidate(packed, runtime)))

    def each(self, feeds: Sequence[Feed], batch: int) -> Iterator[dict[str, Array]]:
        """Yield the outputs of every sample, in order; `batch`: how many are run together.

        Raises RuntimeProblem as `run` does, and where workers are lost.
        """
        size = max(SHARD, math.ceil(len(feeds) / MOST))
        pieces = Lazy(math.ceil(len(feeds) / size), lambda i: (list(feeds[i * size : (i + 1) * size]), batch))
        for outputs in in_order(self._pool, pieces, self._said):
            yield from outputs


def tellable(model: onnx.ModelProto) -> bool:
    """Return whether workers can be told a model: one whose weights lie in memory, and that one message holds."""
    return fits_protobuf(model)


_OPEN: list[tuple[Candidate, Runner]] = []


def outputs_of(candidate: Candidate, piece: tuple[Sequence[Feed], int], threads: int) -> list[dict[str, Array]]:
    """Return the outputs of the samples of a shard, on a worker: its session is opened once for all of them."""
    feeds, size = piece
    if not _OPEN or _OPEN[0][0] is not candidate:
        runtime = replace(candidate.runtime, threads=threads)
        _OPEN[:] = [(candidate, Runner(candidate.model, runtime=runtime))]
    runner = _OPEN[0][1]
    return [sample for run in batches(feeds, size) for sample in split(runner.run(join(run)), run)]
