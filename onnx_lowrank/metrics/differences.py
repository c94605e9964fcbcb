"""How far one output moved over all samples: sums that grow a sample at a time, so nothing is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_lowrank.metrics.lots import alike, lots
from onnx_lowrank.types import Array, OutputDifference


class Difference:
    """The tally of one output; elements where the original is not finite count neither as near nor as far.

    broken: samples where the candidate has a NaN or Inf that the original has not; reshaped: samples of another
    shape; unfit: samples where the original itself has NaN or Inf; void: those of them with nothing finite at all.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.broken = self.reshaped = self.unfit = self.void = 0
        self._apart = self._original = self._candidate = self._product = self._largest = 0.0

    def add_all(self, originals: Sequence[Array], candidates: Sequence[Array]) -> None:
        """Take samples into account, at once where they are small and alike."""
        for pairs in lots(zip(originals, candidates, strict=True)):
            first, second = ([pair[place] for pair in pairs] for place in range(2))
            if alike([*first, *second]):
                self.add(*(np.stack(samples).reshape(len(pairs), -1) for samples in (first, second)), rows=len(pairs))
            else:
                for pair in pairs:
                    self.add(*pair)

    def add(self, original: Array, candidate: Array, *, rows: int = 1) -> None:
        """Take one sample into account, or as many `rows`; both are real numbers of any shape."""
        first, second = np.asarray(original, np.float64), np.asarray(candidate, np.float64)
        sound = np.isfinite(first).reshape(rows, -1)
        self.unfit += int((~sound.all(1)).sum())
        self.void += int((~sound.any(1)).sum()) if sound.size else 0
        if first.shape != second.shape:
            self.reshaped += 1
            self.broken += int(sound.all() and not np.isfinite(second).all())
            return
        first, second = first.reshape(rows, -1), second.reshape(rows, -1)
        finite = np.isfinite(second)
        self.broken += int((~finite & ~np.isnan(first) & (first != second)).any(1).sum())
        kept = sound & finite
        if not kept.all():
            first, second = first[kept], second[kept]
        first, second = first.reshape(-1), second.reshape(-1)
        with np.errstate(over="ignore"):
            apart = second - first
            self._apart += float(apart @ apart)
            self._original += float(first @ first)
            self._candidate += float(second @ second)
            self._product += float(first @ second)
        self._largest = max(self._largest, float(np.abs(apart).max(initial=0.0)))

    def result(self) -> OutputDifference:
        """Return relative L2 and cosine of all samples as one vector, and the largest error, in the output's unit.

        With another shape or a NaN of the candidate's own there is no distance: inf, and a cosine of 0.
        """
        if self.broken or self.reshaped:
            return OutputDifference(self.name, math.inf, 0.0, math.inf, not self.broken)
        if self._apart == 0:
            return OutputDifference(self.name, 0.0, 1.0, 0.0, True)
        relative = math.sqrt(self._apart / self._original) if self._original else math.inf
        sizes = math.sqrt(self._original) * math.sqrt(self._candidate)
        cosine = min(max(self._product / sizes, -1.0), 1.0) if sizes else 0.0
        return OutputDifference(self.name, relative, cosine, self._largest, True)
