"""Pass 1 over a group of sites: moments of every fold, and a cache of the samples to be scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from onnx_lowrank.collection.chain_schemes import chain_samples
from onnx_lowrank.collection.collected import Collected, Moments
from onnx_lowrank.collection.folds import Folds
from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.projected_sides import width_of
from onnx_lowrank.collection.sample_cache import CachedSample, CacheKey, SampleCache, cached, size
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.collection.side_moments import Gathering
from onnx_lowrank.collection.site_group import SiteGroup
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.types import SideName, Site

WAITING = 64
"""Rows gather before their products are formed, all sites of a group together: this part of the memory allowed."""


def collect(
    setup: CollectionSetup,
    source: GradientSource,
    workers: Workers,
    *,
    folds: Folds | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Collected:
    """Return what was collected at the sites of a source; `folds`: of a shard of the samples, None: of all.

    The caller closes its cache.
    """
    folds = folds or setup.folds
    group = setup.group(source.sites)
    with ExitStack() as stack:
        cache = SampleCache(cache_bytes(setup, group, folds), setup.options.memory)
        stack.callback(cache.close)
        run = _Run(setup, source, group, workers, cache, progress)
        moments = tuple(run.fold(*numbers) for numbers in zip(folds.parts, folds.scored, strict=True))
        stack.pop_all()
    numbers = {number for part in folds.parts for number in part}
    blamed = {site: frozenset(here) for site, samples in source.blamed.items() if (here := samples & numbers)}
    return Collected(setup.key(group, folds), moments, frozenset(source.broken & numbers), blamed, cache)


def cache_bytes(setup: CollectionSetup, group: SiteGroup, folds: Folds) -> float:
    """Return what is cached of all samples that are scored; a kernel's inputs may be more than its outputs."""
    sample = float(sum(setup.observed.bytes[site.id] for site in group.chain_sites))
    for site, side in group.sides:
        where = setup.observed.positions[site.id]
        count = sum(at.calls * math.prod(map(max, at.before, at.after)) for at in where)
        sample += size(width_of(site, side), count) * site.groups
    return sample * sum(map(len, folds.scored))


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    setup: CollectionSetup
    source: GradientSource
    group: SiteGroup
    workers: Workers
    cache: SampleCache
    progress: Callable[[int], None]

    def fold(self, numbers: Sequence[int], scored: Sequence[int]) -> Moments:
        """Return the sums of one fold. Of samples to be scored all is cached."""
        setup = self.setup
        sides = [((site, side), setup.thinning(site, side)) for site, side in self.group.sides]
        gathering = Gathering(sides, self.workers, setup.options.memory // WAITING, self.group.same_input)
        feeds = [setup.feeds[number] for number in numbers]
        head, batch, separate = setup.objective.sampled, setup.batch, setup.separate
        for seen in self.source.run(feeds, numbers, head, batch=batch, separate=separate):
            gathering.add(seen)
            self._remember(seen, scored)
            self.progress(len(seen.numbers))
            del seen  # before the next one runs
        return gathering.total()

    def _remember(self, batch: GradientBatch, scored: Sequence[int]) -> None:
        picks = [i for i, number in enumerate(batch.numbers) if number in scored]
        if batch.units != len(batch.numbers):  # samples of several units, or that cannot be told apart
            self.cache.close()
        if not picks or not self.cache.open:
            return
        sides = self.group.sides
        by_side = self.workers.map_striped(lambda place: _cached(batch, picks, *place), sides)
        for nth, index in enumerate(picks):
            sample: dict[CacheKey, CachedSample] = {
                (site.id, side): samples[nth] for (site, side), samples in zip(sides, by_side, strict=True)
            }
            sample |= chain_samples(self.group.chain_sites, batch, index)
            self.cache.put(batch.numbers[index], batch.samples / batch.units, sample)


def _cached(batch: GradientBatch, picks: Sequence[int], site: Site, side: SideName) -> list[CachedSample]:
    pairs = [
        (z.reshape(batch.units, -1, z.shape[1]), e.reshape(batch.units, -1, e.shape[1]))
        for z, e in batch.vectors(site, side)
    ]
    return [cached([(z[i], e[i]) for z, e in pairs], site.groups) for i in picks]
