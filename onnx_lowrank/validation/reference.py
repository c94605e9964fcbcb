"""The original's outputs on a set, run once and kept as far as memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx_lowrank.runtime.batching import batch_size, batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed

KEPT_BYTES = 256 * 2**20
"""Memory for the original's outputs; what does not fit is computed again for every candidate."""


class Reference:
    """The original's outputs on a set, run once; kept from the first sample on until `limit` bytes are full."""

    def __init__(self, runner: Runner, feeds: Sequence[Feed], *, limit: int = KEPT_BYTES) -> None:
        self.runner = runner
        self.feeds = feeds
        self.limit = limit
        self.batch = batch_size(runner, feeds)
        self.kept_bytes = 0
        self._kept: list[dict[str, Array]] = []

    def batches(self) -> Iterator[tuple[list[Feed], list[dict[str, Array]]]]:
        """Yield (feeds, the original's outputs on them), a batch of neighbours at a time."""
        start = 0
        for feeds in batches(self.feeds, self.batch):
            stop = start + len(feeds)
            if stop <= len(self._kept):
                outputs = self._kept[start:stop]
            else:
                outputs = split(self.runner.run(join(feeds)), feeds)
                self._keep(start, outputs)
            yield feeds, outputs
            start = stop

    def _keep(self, start: int, outputs: list[dict[str, Array]]) -> None:
        size = sum(getattr(array, "nbytes", 0) for sample in outputs for array in sample.values())
        if start == len(self._kept) and self.kept_bytes + size <= self.limit:
            self._kept.extend(outputs)
            self.kept_bytes += size
