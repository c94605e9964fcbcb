"""Pass 1 over a group of sites in shards of the samples, made by workers; the sums are the same whoever makes them.

The same workers then decompose: they are told one work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from onnx_lowrank.collection.collect import cache_bytes, collect
from onnx_lowrank.collection.collected import Collected, Moments, added
from onnx_lowrank.collection.cross_fit import SideFit
from onnx_lowrank.collection.fit import SideWork
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.sample_cache import CachedSample, CacheKey, SampleCache
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.executors import Pool, Work, in_order
from onnx_lowrank.graph.large import PROTOBUF_LIMIT, proto_bytes
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.samples import Samples
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Feed, Site
from onnx_lowrank.weights.inventory import NO_SAMPLES

SHARD, MOST = 64, 64
"""Samples in a shard, and shards: more samples make them larger, as what one sends does not depend on its samples. Nor
does it depend on the workers, so the sums are the same to a bit, whose order is the shards'."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A shard of the samples, at some sites. feeds: number of a sample -> its inputs."""

    sites: tuple[Site, ...]
    feeds: Mapping[int, Feed]


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What a shard gives. cached: (number, weight, sample) of those to be scored; None where they do not fit."""

    moments: tuple[Moments, ...]
    broken: frozenset[int]
    blamed: Mapping[str, frozenset[int]]
    cached: tuple[tuple[int, float, Mapping[CacheKey, CachedSample]], ...] | None


def work_of(setup: CollectionSetup) -> Work:
    """Return what workers are told: all of a setup but its samples."""
    nothing = replace(setup.samples, feeds=_sent({}, setup), labels=None, notes=())
    weights = replace(setup.inventory, ranged=NO_SAMPLES, compensation=None)  # of number formats, which come later
    objective = replace(setup.objective, labels=None)
    return Work(done, replace(setup, samples=nothing, inventory=weights, objective=objective))


def done(setup: CollectionSetup, piece: Piece | SideWork | None, threads: int) -> Made | SideFit | None:
    """Return, on a worker, the bases of a side (None of nothing), or what a shard gives."""
    if isinstance(piece, Piece):
        return made(setup, piece, threads)
    with Workers(threads) as workers:
        return None if piece is None else piece.done(workers.each)


def _sent(feeds: Mapping[int, Feed], setup: CollectionSetup) -> Lazy[Feed]:
    """Return the samples of a shard by their numbers in the whole set; the others are not there."""
    return Lazy(len(setup.samples), feeds.__getitem__)


def kept_here(setup: CollectionSetup) -> str:
    """Return why workers cannot do it, "" where they can."""
    if setup.objective.custom is not None:
        return "a loss of your own is computed here, as workers may not have what it imports"
    if proto_bytes(setup.model) >= PROTOBUF_LIMIT:
        return "above 2 GB only weights that stay in their file can be told to workers, and these are in memory"
    return ""


def made(setup: CollectionSetup, piece: Piece, threads: int) -> Made:
    """Return what a shard gives, on a worker: its sessions are opened once for all shards at the same sites."""
    runtime = replace(setup.options.runtime, threads=threads)
    samples: Samples = replace(setup.samples, feeds=_sent(piece.feeds, setup))
    own = replace(setup, samples=samples, options=replace(setup.options, runtime=runtime))
    source = _source(setup, own, piece.sites)
    with Workers(threads) as workers:
        collected = collect(own, source, workers, folds=own.folds.only(piece.feeds))
    try:
        scored = [number for part in own.folds.only(piece.feeds).scored for number in part]
        whole = collected.cache.open
        cached = tuple((n, *collected.cache.get(n)) for n in scored if n in collected.cache) if whole else None
    finally:
        collected.cache.close()
    return Made(collected.moments, collected.broken, collected.blamed, cached)


_OPEN: list[tuple[CollectionSetup, tuple[Site, ...], GradientSource]] = []


def _source(setup: CollectionSetup, own: CollectionSetup, sites: tuple[Site, ...]) -> GradientSource:
    if not _OPEN or _OPEN[0][0] is not setup or _OPEN[0][1] != sites:
        while _OPEN:
            _OPEN.pop()[2].close()
        _OPEN.append((setup, sites, own.source(sites)))
    return _OPEN[0][2]


def shards_of(numbers: Sequence[int]) -> list[Sequence[int]]:
    """Return neighbouring samples together."""
    size = max(SHARD, math.ceil(len(numbers) / MOST))
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def collect_in_shards(
    setup: CollectionSetup,
    source: GradientSource,
    pool: Pool,
    *,
    progress: Callable[[int], None] = lambda count: None,
    said: Callable[[str], None] = lambda note: None,
) -> Collected:
    """Return what `collect` does, of shards by workers; `source` learns which samples are broken.

    The caller closes its cache. Raises RuntimeProblem where workers are lost.
    """
    group, folds, sites = setup.group(source.sites), setup.folds, tuple(source.sites)
    numbers = sorted(number for part in folds.parts for number in part)
    shards = shards_of(numbers)
    pieces = Lazy(len(shards), lambda index: Piece(sites, {n: setup.feeds[n] for n in shards[index]}))
    moments: tuple[Moments, ...] = tuple({} for _ in folds.parts)
    with ExitStack() as stack:
        cache = SampleCache(cache_bytes(setup, group, folds), setup.options.memory)
        stack.callback(cache.close)
        for shard, part in zip(shards, in_order(pool, pieces, said), strict=True):
            moments = tuple(added(mine, theirs) for mine, theirs in zip(moments, part.moments, strict=True))
            source.broken |= part.broken
            for site, here in part.blamed.items():
                source.blamed.setdefault(site, set()).update(here)
            if part.cached is None:
                cache.close()
            for sample in part.cached or ():
                cache.put(*sample)
            progress(len(shard))
        stack.pop_all()
    blamed = {site: frozenset(samples) for site, samples in source.blamed.items()}
    return Collected(setup.key(group, folds), moments, frozenset(source.broken), blamed, cache)
