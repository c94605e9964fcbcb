"""Schemes that project no side of a weight: fitted on the moments of both sides, scored through the chain itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.collection.forward_backward import Batch, JointFlow
from onnx_lowrank.collection.sample_cache import CachedSample, CacheKey
from onnx_lowrank.collection.scores import Scores, never_rising
from onnx_lowrank.numerics.kronecker_metric import SideMoments, rises, tails
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.schemes import SCHEMES, ChainScheme, Factors, ranks_of
from onnx_lowrank.types import Array, Ranks, Site
from onnx_lowrank.weights.inventory import Inventory

SHRINK = 1e-2
"""Share of the mean eigenvalue that is added to A and to B."""


@dataclass(slots=True, eq=False)
class _Chained:
    """One site by one scheme: the factors fitted without every fold and with all samples, and what samples gave."""

    site: Site
    scheme: ChainScheme
    ranks: list[Ranks]
    folds: list[Factors] = field(default_factory=list)
    final: Factors | None = None
    sampled: list[Array] = field(default_factory=list)
    signed: list[Array] = field(default_factory=list)


class Chains:
    """All such pairs of a group of sites. `multiple`: of ranks; None: none at all (the metric is not the joint one)."""

    def __init__(self, flow: JointFlow, inventory: Inventory, multiple: int | None) -> None:
        self._flow, self._found = flow, inventory
        self._all = [
            _Chained(site, scheme, ranks)
            for site in (flow.sites if multiple is not None else ())
            for scheme in SCHEMES
            if isinstance(scheme, ChainScheme) and (ranks := ranks_of(scheme, site, multiple or 1))
        ]

    def fit(self, parts: Sequence[Mapping[CacheKey, SideMoments]], workers: Workers) -> None:
        """Fit every chain without each fold and with all; a site that some fold says nothing of gets none."""
        for one in self._all:
            given = [(part.get((one.site.id, "in")), part.get((one.site.id, "out"))) for part in parts]
            known = [(x, y) for x, y in given if x is not None and y is not None and not (x.empty or y.empty)]
            if len(known) < max(len(given), 2):
                continue
            inner, outer = (sum((pair[i] for pair in known[1:]), start=known[0][i]) for i in range(2))
            metrics = [(inner.Z - x.Z, outer.E - y.E) for x, y in known]
            weight = self._found.stored(one.site)  # a view: factors may keep it
            *one.folds, one.final = workers.each(
                functools.partial(_fitted, one.scheme, weight, one.ranks[-1]), [*metrics, (inner.Z, outer.E)]
            )

    @property
    def sites(self) -> list[Site]:
        """All sites that such schemes fit."""
        return list({one.site.id: one.site for one in self._all}.values())

    def seen(self, batch: Batch, index: int) -> dict[CacheKey, CachedSample]:
        """Return what to keep of one row of a batch: ⟨Γ, W⟩, and input and output gradient of every call."""
        row = slice(index, index + 1)
        return {
            (site.id, "chain"): (
                self._whole(batch, site)[row, None],
                *(array[row] for pair in batch.ends(site) for array in pair),
            )
            for site in self.sites
        }

    def recall(self, fold: int, given: Mapping[CacheKey, CachedSample], scale: float, workers: Workers) -> None:
        """Score a sample that was kept by the factors that were fitted without its fold."""

        def projected(one: _Chained) -> Array:
            whole, *ends = given[one.site.id, "chain"]
            return self._components(one, fold, whole[0], list(zip(ends[::2], ends[1::2], strict=True)), 1)

        ready = [one for one in self._all if one.final is not None]
        for one, found in zip(ready, workers.map_striped(projected, ready), strict=True):
            one.sampled.append(found / scale)

    def project(self, fold: int, batch: Batch, scale: float, workers: Workers, *, mean: bool) -> None:
        """Score a batch by the factors that were fitted without its fold."""
        ready = [one for one in self._all if one.final is not None]

        def projected(one: _Chained) -> Array:
            return self._components(one, fold, self._whole(batch, one.site), batch.ends(one.site), batch.units)

        for one, found in zip(ready, workers.map_striped(projected, ready), strict=True):
            (one.signed if mean else one.sampled).append(found / scale)

    def _components(
        self, one: _Chained, fold: int, whole: Array, ends: Sequence[tuple[Array, Array]], units: int
    ) -> Array:
        """Return (units, r + 1) ⟨Γ_s, component⟩, and at last that of all components beyond the largest rank."""
        key = (f"{one.site.id}/{one.scheme.name}", fold)
        rows = self._flow.chain_components(one.site, lambda: one.folds[fold].chain(one.ranks[-1]), key, ends)
        parts = rows.reshape(units, -1, rows.shape[1]).sum(1)
        return np.column_stack([parts, whole - parts.sum(1)])

    def release(self) -> None:
        """Give up the factors that no sample is scored by any more; those without the first fold are told."""
        for one in self._all:
            del one.folds[1:]

    @staticmethod
    def _whole(batch: Batch, site: Site) -> Array:
        """Return (units,) ⟨Γ_s, W⟩."""
        each = (np.einsum("pd,pd->p", z, e, dtype=np.float64) for z, e in batch.vectors(site, "out"))
        return np.asarray(sum(call.reshape(batch.units, -1).sum(1) for call in each))

    def scored(self, first: int) -> Iterator[tuple[tuple[str, str], Scores]]:
        """Yield (site id, scheme) and what was found; `first`: samples of the first fold."""
        for one in self._all:
            if one.final is not None and one.sampled:
                yield (one.site.id, one.scheme.name), self._one(one, one.final, first)

    def _one(self, one: _Chained, final: Factors, first: int) -> Scores:
        ranks = [rank for (rank,) in one.ranks]
        tail = tails(np.concatenate(one.sampled), ranks)
        rise, deviation = rises(tail)
        return Scores(
            factors=final,
            ranks=tuple(one.ranks),
            tails=tail,
            slopes=tails(np.concatenate(one.signed), ranks) if one.signed else None,
            rise=never_rising(rise, one.ranks),
            deviation=deviation,
            kron=np.array([final.error(rank) for rank in one.ranks])
            * 0.5
            * float(np.mean(tails(np.concatenate(one.sampled), [0]) ** 2)),
            held=one.folds[0],
            first=first,
        )


def _fitted(scheme: ChainScheme, weight: Array, most: Ranks, metric: tuple[Array, Array]) -> Factors:
    A, B = map(_shrunk, metric)
    return scheme.chained(weight, A, B, most)


def _shrunk(moments: Array) -> Array:
    """Return the second moment, of mean eigenvalue 1, with a share of the identity added: none is 0 then."""
    width = len(moments)
    return moments / max(float(moments.trace()) / width, 1e-300) + SHRINK * np.eye(width)
