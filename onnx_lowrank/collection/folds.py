"""Which samples are collected in which fold, and which of them are scored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

FOLDS = 2
SCORED = 128
"""Samples that are scored, over all folds: a third of them, but not more than this, nor fewer than LEAST_SCORED."""
LEAST_SCORED = 64
BLOCK = 8
"""Neighbours stay in one fold: they may come from one recording, one document, one photo."""


@dataclass(frozen=True, slots=True)
class Folds:
    """parts: the numbers of every fold's samples, rising. scored: those of them that are scored."""

    parts: tuple[tuple[int, ...], ...]
    scored: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(count: int, score: int | None = None) -> Folds:
        """Deal blocks of neighbours in turn, and spread what is scored over every fold.

        score: how many, over all folds; None: by the rule of SCORED.
        """
        block = max(min(BLOCK, count // (2 * FOLDS)), 1)
        parts = tuple(tuple(i for i in range(count) if i // block % FOLDS == fold) for fold in range(FOLDS))
        rule = min(SCORED, max(count // 3, LEAST_SCORED))
        most = max((rule if score is None else score) // FOLDS, 1)
        return Folds(parts, tuple(_spread(part, most) for part in parts))

    def spread(self, count: int) -> tuple[tuple[int, ...], ...]:
        """Return, by fold, up to so many samples over all folds, evenly spread."""
        return tuple(_spread(part, max(count // len(self.parts), 1)) for part in self.parts)

    def only(self, numbers: Collection[int]) -> Folds:
        """Return the same folds without all other samples: those of a shard."""
        wanted = set(numbers)

        def among(parts: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
            return tuple(tuple(i for i in part if i in wanted) for part in parts)

        return Folds(among(self.parts), among(self.scored))


def _spread(part: tuple[int, ...], most: int) -> tuple[int, ...]:
    picks = np.unique(np.linspace(0, len(part) - 1, min(len(part), most)).round().astype(int))
    return tuple(part[i] for i in picks) if part else ()
