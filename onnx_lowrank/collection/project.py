"""Pass 2: every sample to be scored, on the bases that were fitted without its fold.

What pass 1 has cached is projected; only where it could not be cached the samples run again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.collection.chain_components import ChainSessions
from onnx_lowrank.collection.chain_schemes import ChainSamples
from onnx_lowrank.collection.collected import Collected
from onnx_lowrank.collection.fit import Fitted
from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.gradient_source import GradientSource, Head
from onnx_lowrank.collection.sample_cache import CachedSample, CacheKey, projected
from onnx_lowrank.collection.scores import ScoreKey
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.collection.site_group import SiteGroup
from onnx_lowrank.numerics.kronecker_metric import Basis
from onnx_lowrank.numerics.kronecker_metric import project as project_on
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.types import Array, SideName, Site


@dataclass(frozen=True, slots=True, eq=False)
class Projections:
    """Arrays (units, r), fold after fold: of every side, and of members of shared inputs; (units, r + 1) of chains."""

    sides: dict[CacheKey, list[Array]] = field(default_factory=dict)
    chains: dict[ScoreKey, list[Array]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many samples there are so far, units of several counted as one."""
        return sum(map(len, next(iter(self.sides.values()), [])))


@dataclass(frozen=True, slots=True, eq=False)
class Projected:
    """sampled: with sampled targets. signed: with real ones, where they are asked for. first: of the first fold."""

    sampled: Projections
    signed: Projections
    first: int


def project(
    collected: Collected,
    fits: Sequence[Fitted],
    source: GradientSource,
    setup: CollectionSetup,
    workers: Workers,
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Projected]:
    """Return the scored samples' projections, in every metric; `source` is run where the cache does not do."""
    group, objective = setup.group(source.sites), setup.objective
    sessions = ChainSessions(setup.inventory, setup.options.runtime)
    sampled, signed = [Projections() for _ in fits], [Projections() for _ in fits]
    first = [0 for _ in fits]
    for fold, numbers in enumerate(collected.key.scored):
        known = [nth for nth, fitted in enumerate(fits) if fold < len(fitted.folds)]
        onto = [_Fold(fold, fits[nth], group, sessions, workers) for nth in known]
        if collected.cache.open:
            for nth, place in zip(known, onto, strict=True):
                place.recall(collected, numbers, sampled[nth])
        elif known:
            _run(setup, source, numbers, objective.sampled, onto, [sampled[nth] for nth in known])
        first = [count or own.count for count, own in zip(first, sampled, strict=True)]
        if objective.signed and known:
            sloped = setup.sloped[fold]
            _run(setup, source, sloped, objective.labelled, onto, [signed[nth] for nth in known], mean=True)
            if setup.options.first_order:
                progress(len(sloped) * len(fits))
        sessions.release()
        progress(len(numbers) * len(fits))
    return [Projected(*one) for one in zip(sampled, signed, first, strict=True)]


def _run(
    setup: CollectionSetup,
    source: GradientSource,
    numbers: Sequence[int],
    head: Head,
    onto: Sequence[_Fold],
    into: Sequence[Projections],
    *,
    mean: bool = False,
) -> None:
    """Run samples and project them; `mean`: with real targets, of which the mean counts."""
    feeds = [setup.feeds[number] for number in numbers]
    for batch in source.run(feeds, numbers, head, batch=setup.batch, separate=setup.separate):
        for fold, projections in zip(onto, into, strict=True):
            fold.take(batch, projections, mean=mean)
        del batch


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    """What the samples of one fold are projected on."""

    fold: int
    fitted: Fitted
    group: SiteGroup
    sessions: ChainSessions
    workers: Workers

    @property
    def bases(self) -> Mapping[CacheKey, Basis]:
        return self.fitted.folds[self.fold]

    def recall(self, collected: Collected, numbers: Sequence[int], into: Projections) -> None:
        """Project what pass 1 cached, instead of running it again."""
        for number in (number for number in numbers if number not in collected.broken):
            weight, sample = collected.cache.get(number)
            keys = [key for key in self.bases if _source(key) in sample]
            scale = math.sqrt(weight)
            for key, rows in zip(keys, self._cached(keys, sample), strict=True):
                into.sides.setdefault(key, []).append(rows / scale)
            self._chains(functools.partial(ChainSamples.recalled, sample), scale, into)

    def _cached(self, keys: Sequence[CacheKey], sample: Mapping[CacheKey, CachedSample]) -> list[Array]:
        return self.workers.map_striped(lambda key: projected(self.bases[key], sample[_source(key)]), keys)

    def take(self, batch: GradientBatch, into: Projections, *, mean: bool) -> None:
        """Project what a batch gave."""
        scale = batch.samples / batch.units  # a unit of several samples: its gradient is their sum
        scale = -scale if mean else math.sqrt(scale)  # ⟨G, δ⟩ = −Σ_{i ≥ k} v_i
        places: list[tuple[Site, SideName, CacheKey]] = [
            (site, side, (site.id, side)) for site, side in self.group.sides
        ]
        places += [(site, "in", (site.id, "shared")) for site in self.group.sharing]
        for key, rows in self.workers.map_striped(functools.partial(self._projected, batch), places):
            if rows is not None:
                into.sides.setdefault(key, []).append(rows / scale)
        self._chains(functools.partial(ChainSamples.of, batch), scale, into)

    def _projected(self, batch: GradientBatch, place: tuple[Site, SideName, CacheKey]) -> tuple[CacheKey, Array | None]:
        site, side, key = place
        basis = self.bases.get(key)
        if basis is None:
            return key, None
        calls = [project_on(basis, z, e, batch.units) for z, e in batch.vectors(site, side)]
        return key, np.sum(calls, axis=0)

    def _chains(self, samples: Callable[[Site], ChainSamples], scale: float, into: Projections) -> None:
        fits = self.fitted.chains
        parts = self.workers.map_striped(
            lambda fit: fit.components(self.fold, samples(fit.pair.site), self.sessions), fits
        )
        for fit, rows in zip(fits, parts, strict=True):
            into.chains.setdefault(fit.pair.key, []).append(rows / scale)


def _source(key: CacheKey) -> CacheKey:
    """Return what of a sample a basis projects: for a shared factor, the input that is shared."""
    return (key[0], "in") if key[1] == "shared" else key
