"""The original's outputs on a set, run once and kept: in memory as far as it allows, then in a temporary file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from onnx_lowrank.runtime.batching import batch_size, batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed
from onnx_lowrank.validation.on_workers import OnWorkers
from onnx_lowrank.validation.outputs_on_disk import OutputsOnDisk, Stored

KEPT_BYTES = 256 * 2**20
"""Memory for the original's outputs; what does not fit goes to disk."""


class Reference:
    """The original's outputs on a set, run once; kept from the first sample on until `limit` bytes are full.

    disk: bytes that the rest may take in a temporary file; None: a part of what is free. What has no room there either
    is computed again for every candidate.
    """

    def __init__(
        self, runner: Runner, feeds: Sequence[Feed], *, limit: int = KEPT_BYTES, disk: int | None = None
    ) -> None:
        self.runner = runner
        self.feeds = feeds
        self.limit = limit
        self.batch = batch_size(runner, feeds)
        self.kept_bytes = 0
        self._kept: list[dict[str, Array]] = []
        self._disk = OutputsOnDisk(disk)
        self._stored: list[Stored] = []

    def batches(self) -> Iterator[tuple[list[Feed], list[dict[str, Array]]]]:
        """Yield (feeds, the original's outputs on them), a batch of neighbours at a time."""
        start = 0
        for feeds in batches(self.feeds, self.batch):
            stop, first = start + len(feeds), len(self._kept)
            if stop <= first + len(self._stored):
                outputs = self._kept[start:stop]
                outputs += [self._disk.get(self._stored[i - first]) for i in range(max(start, first), stop)]
            else:
                outputs = split(self.runner.run(join(feeds)), feeds)
                self._keep(start, outputs)
            yield feeds, outputs
            start = stop

    def beside(
        self, candidate: Runner | None
    ) -> Iterator[tuple[list[Feed], list[dict[str, Array]], list[dict[str, Array]]]]:
        """Yield (feeds, the original's outputs, the candidate's), a batch of neighbours at a time; None: the same.

        A candidate runs one at a time where a batch would change its outputs (int8 with ranges found at run time, say).
        """
        if candidate is None:
            yield from ((feeds, outputs, outputs) for feeds, outputs in self.batches())
            return
        alone = 1 == batch_size(candidate, self.feeds) < self.batch
        each = candidate.each(self.feeds, 1 if alone else self.batch) if isinstance(candidate, OnWorkers) else None
        for feeds, outputs in self.batches():
            if each is not None:
                yield feeds, outputs, list(itertools.islice(each, len(feeds)))
            elif alone:
                yield feeds, outputs, [candidate.run(feed) for feed in feeds]
            else:
                yield feeds, outputs, split(candidate.run(join(feeds)), feeds)

    def _keep(self, start: int, outputs: list[dict[str, Array]]) -> None:
        """Keep the outputs that come next: in memory until a batch does not fit, from there on on disk."""
        size = sum(getattr(array, "nbytes", 0) for sample in outputs for array in sample.values())
        if start == len(self._kept) and not self._stored and self.kept_bytes + size <= self.limit:
            self._kept.extend(outputs)
            self.kept_bytes += size
        elif start == len(self._kept) + len(self._stored):
            stored = [self._disk.put(sample) for sample in outputs]
            whole = [place for place in stored if place is not None]
            if len(whole) == len(outputs):
                self._stored.extend(whole)
