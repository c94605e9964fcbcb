"""Schemes that project no side of a weight: fitted on the moments of both sides, scored through the chain itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.collection.chain_components import ChainSessions
from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.sample_cache import CachedSample, CacheKey
from onnx_lowrank.collection.scores import Scores, never_rising
from onnx_lowrank.collection.site_group import ChainPair, SiteGroup
from onnx_lowrank.numerics.kronecker_metric import Exponents, SideMoments, power, rises, tails
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.schemes import ChainScheme, Factors
from onnx_lowrank.types import Array, Ranks, Site

SHRINK = 1e-2
"""Share of the mean eigenvalue that is added to A and to B."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainFit:
    """One site by one scheme: the factors fitted without every fold, and with all samples."""

    pair: ChainPair
    folds: tuple[Factors, ...]
    final: Factors

    def without_first_fold(self) -> ChainFit:
        """Return the same without what was fitted without the other folds."""
        return replace(self, folds=self.folds[:1])

    def components(self, fold: int, samples: ChainSamples, sessions: ChainSessions) -> Array:
        """Return (units, r + 1) ⟨Γ_s, component⟩, and at last that of all components beyond the largest rank."""
        site, ranks = self.pair.site, self.pair.ranks
        key = ("/".join(self.pair.key), fold)
        rows = sessions.components(site, lambda: self.folds[fold].chain(ranks[-1]), key, samples.ends)
        parts = rows.reshape(len(samples.whole), -1, rows.shape[1]).sum(1)
        return np.column_stack([parts, samples.whole - parts.sum(1)])


@dataclass(frozen=True, slots=True, eq=False)
class ChainSamples:
    """whole: (units,) ⟨Γ, W⟩ of every sample. ends: the input and the output gradient of every call."""

    whole: Array
    ends: Sequence[tuple[Array, Array]]

    @staticmethod
    def of(batch: GradientBatch, site: Site) -> ChainSamples:
        """Return what a batch gives at a site."""
        return ChainSamples(_whole(batch, site), batch.ends(site))

    @staticmethod
    def recalled(sample: Mapping[CacheKey, CachedSample], site: Site) -> ChainSamples:
        """Return what was cached of one sample at a site: see `chain_samples`."""
        whole, *ends = sample[site.id, "chain"]
        return ChainSamples(whole[0], list(zip(ends[::2], ends[1::2], strict=True)))


def fit_chains(
    group: SiteGroup, parts: Sequence[Mapping[CacheKey, SideMoments]], workers: Workers
) -> tuple[ChainFit, ...]:
    """Fit every chain without each fold and with all; a site that some fold says nothing of gets none."""
    fits = []
    for pair in group.chains:
        both = [(part.get((pair.site.id, "in")), part.get((pair.site.id, "out"))) for part in parts]
        known = [(x, y) for x, y in both if x is not None and y is not None and not (x.empty or y.empty)]
        if len(known) < max(len(both), 2):
            continue
        inner, outer = (sum((sides[i] for sides in known[1:]), start=known[0][i]) for i in range(2))
        metrics = [(inner.Z - x.Z, outer.E - y.E) for x, y in known]
        weight = group.weight(pair.site)  # a view: factors may keep it
        factor = functools.partial(_factors, pair.scheme, weight, pair.ranks[-1], group.exponents)
        *folds, final = workers.each(factor, [*metrics, (inner.Z, outer.E)])
        fits.append(ChainFit(pair, tuple(folds), final))
    return tuple(fits)


def chain_samples(sites: Sequence[Site], batch: GradientBatch, index: int) -> dict[CacheKey, CachedSample]:
    """Return what to cache of one row of a batch: ⟨Γ, W⟩, and input and output gradient of every call."""
    row = slice(index, index + 1)
    return {
        (site.id, "chain"): (
            _whole(batch, site)[row, None],
            *(array[row] for pair in batch.ends(site) for array in pair),
        )
        for site in sites
    }


def score_chain(fit: ChainFit, sampled: Sequence[Array], signed: Sequence[Array], first: int) -> Scores:
    """Return the scores of a chain; sampled, signed: (units, r + 1) components, `first` samples of the first fold."""
    ranks = [rank for (rank,) in fit.pair.ranks]
    tail = tails(np.concatenate(sampled), ranks)
    rise, deviation = rises(tail)
    return Scores(
        factors=fit.final,
        ranks=fit.pair.ranks,
        tails=tail,
        slopes=tails(np.concatenate(signed), ranks) if signed else None,
        rise=never_rising(rise, fit.pair.ranks),
        deviation=deviation,
        kron=np.array([fit.final.error(rank) for rank in fit.pair.ranks])
        * 0.5
        * float(np.mean(tails(np.concatenate(sampled), [0]) ** 2)),
        held=fit.folds[0],
        first=first,
    )


def _whole(batch: GradientBatch, site: Site) -> Array:
    """Return (units,) ⟨Γ_s, W⟩."""
    calls = (np.einsum("pd,pd->p", z, e, dtype=np.float64) for z, e in batch.vectors(site, "out"))
    return np.asarray(sum(call.reshape(batch.units, -1).sum(1) for call in calls))


def _factors(
    scheme: ChainScheme, weight: Array, most: Ranks, exponents: Exponents, metric: tuple[Array, Array]
) -> Factors:
    A, B = (_shrunk(power(moments, exponent)) for moments, exponent in zip(metric, exponents, strict=True))
    return scheme.chained(weight, A, B, most)


def _shrunk(moments: Array) -> Array:
    """Return the second moment, of mean eigenvalue 1, with a share of the identity added: none is 0 then."""
    width = len(moments)
    return moments / max(float(moments.trace()) / width, 1e-300) + SHRINK * np.eye(width)
