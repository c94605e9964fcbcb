"""Moments of every side of a group's sites, summed over the batches of one fold.

Where the samples have far more positions than moments need, only some lines and rows are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.collection.projected_sides import width_of
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.site_group import Side
from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.gram import add_gram, mirror
from onnx_lowrank.numerics.kronecker_metric import SideMoments
from onnx_lowrank.types import Array, SideName, Site

ENOUGH = 128
"""Positions for every dimension, over all samples, that moments are sums of, at least."""
MOST_LINES = 8
"""Of so many lines of an image at least one is looked at."""
PLENTY = 256
"""With more positions than this for every dimension, evenly spread rows are taken as well."""

_Rows: TypeAlias = tuple[Array, Array, int, bool]
"""z, e, how many samples they are of, and whether the weight is read transposed there."""
Thinning: TypeAlias = tuple[int, int]
"""Of how many lines of an image, and then of how many rows, one is looked at."""


def thinned(site: Site, side: SideName, observed: ObservedPositions, samples: int) -> Thinning:
    """Return what to look at of so many samples: all, but where they have more positions than moments need."""
    where, width = observed.positions[site.id], width_of(site, side)
    count = samples * sum(at.calls * math.prod(at.after) for at in where)
    lines = 1
    if all(at.after and at.before == at.after for at in where):
        lines = int(max(min(count // (ENOUGH * width), MOST_LINES, where[0].after[0] // 2), 1))
    return lines, int(max(count / lines // (PLENTY * width), 1))


class Gathering:
    """Sums over batches: products in float32, their sums in float64.

    Rows wait until there are `most` bytes of them, all sides together: one product of many rows is faster than many
    of few. same: key -> another one, whose Z is its own as well: the weights of a shared input have one input.
    """

    def __init__(
        self,
        sides: Sequence[tuple[Side, Thinning]],
        workers: linalg.Workers,
        most: int,
        same: Mapping[CacheKey, CacheKey] | None = None,
    ) -> None:
        self._sides, self._workers, self._most, self._same = sides, workers, most, same or {}
        self._sums: dict[CacheKey, SideMoments] = {}
        self._waiting: dict[CacheKey, list[_Rows]] = {}
        self._held = 0

    def add(self, batch: GradientBatch) -> None:
        """Take what moments need of a batch."""
        by_side = self._workers.map_striped(lambda side: _looked_at(batch, *side), self._sides)
        for ((site, side), _), pairs in zip(self._sides, by_side, strict=True):
            ways = batch.transposed(site)
            rows = [(z, e, batch.samples, transposed) for (z, e), transposed in zip(pairs, ways, strict=True)]
            self._waiting.setdefault((site.id, side), []).extend(rows)
            self._held += sum(z.nbytes + e.nbytes for z, e in pairs)
        if self._held > self._most:
            self._sum()

    def total(self) -> dict[CacheKey, SideMoments]:
        """Return the sums; nothing is added after this."""
        self._sum()
        for key, both in self._sums.items():
            for moments in (both, both.transposed):
                if moments is not None:
                    mirror(moments.E)
                    if key not in self._same:
                        mirror(moments.Z)
        return {key: replace(own, Z=self._sums[self._same.get(key, key)].Z) for key, own in self._sums.items()}

    def _sum(self) -> None:
        """Add what has gathered to upper triangles."""
        sums = self._workers.each(lambda side: self._summed(*side), self._sides)
        self._sums.update(
            {(s.id, side): total for ((s, side), _), total in zip(self._sides, sums, strict=True) if total}
        )
        self._held = 0

    def _summed(self, place: Side, thinning: Thinning) -> SideMoments | None:
        scale = math.prod(thinning)
        key: CacheKey = (place[0].id, place[1])
        parts, total = self._waiting.pop(key, []), self._sums.get(key)
        straight, transposed = ([part for part in parts if part[3] is way] for way in (False, True))
        if straight:
            total = _added(total, straight, place, scale, same=key in self._same)
        if transposed:
            total = total or _none(place)
            total = replace(total, transposed=_added(total.transposed, transposed, place, scale))
        return total


def _none(place: Side, *, same: bool = False) -> SideMoments:
    groups, width = place[0].groups, width_of(*place)
    shape = (width, width) if groups == 1 else (groups, width, width)
    return SideMoments(np.zeros(0 if same else shape), np.zeros(shape), 0, 0)


def _added(
    total: SideMoments | None, parts: Sequence[_Rows], place: Side, scale: int, *, same: bool = False
) -> SideMoments:
    """Return the sums with rows added to their upper triangles, in place; `same`: Z is that of another side."""
    total = total or _none(place, same=same)
    e = np.concatenate([part[1] for part in parts])
    if not same:
        add_gram(total.Z, np.concatenate([part[0] for part in parts]), scale)
    add_gram(total.E, e, scale)
    positions, samples = total.positions + len(e) * scale, total.samples + sum(part[2] for part in parts)
    return replace(total, positions=positions, samples=samples)


def _looked_at(batch: GradientBatch, place: Side, thinning: Thinning) -> list[tuple[Array, Array]]:
    every, rows = thinning
    pairs = list(batch.vectors(*place, every))
    if rows == 1 and every == 1:
        return pairs
    part = slice(batch.numbers[0] % rows, None, rows)
    return [(z[part].copy("K"), e[part].copy("K")) for z, e in pairs]  # a view would hold all the rows
