"""From what was collected to bases and factors: cross-fitted on every side, of shared inputs, and of chains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.collection.chain_schemes import ChainFit, fit_chains
from onnx_lowrank.collection.collected import Collected, Moments
from onnx_lowrank.collection.cross_fit import Each, SideFit, cross_fit, in_turn
from onnx_lowrank.collection.projected_sides import width_of
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.shared_bases import SharedFit, fit_shared
from onnx_lowrank.collection.site_group import Side, SiteGroup
from onnx_lowrank.executors import Pool, in_order
from onnx_lowrank.numerics.kronecker_metric import Basis, Exponents, SideMoments, TwoSidedMetric
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.progress import LOGGER
from onnx_lowrank.samples.sets import Lazy
from onnx_lowrank.types import Array, SideName, Site

WIDE = 256
"""Sides with more dimensions than this are decomposed one at a time, fold by fold on as many threads."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """folds: what the samples of every fold are projected on, fitted without them: sides, and "shared" of members.

    final, krons: of every side, the basis of all samples and the A ⊗ B score held out. dead: sites of which some fold
    says nothing.
    """

    folds: tuple[Mapping[CacheKey, Basis], ...]
    final: Mapping[CacheKey, Basis]
    krons: Mapping[CacheKey, Array]
    dead: tuple[Site, ...]
    shared: tuple[SharedFit, ...]
    chains: tuple[ChainFit, ...]

    @property
    def bytes(self) -> int:
        """What the bases take."""
        bases = [basis for part in (*self.folds, self.final) for basis in part.values()]
        return sum(basis.read.nbytes + basis.write.nbytes for basis in bases)

    def without_first_fold(self) -> Fitted:
        """Return what is reported: of the folds only what was fitted without the first; the rest is not needed again.

        Whoever scores lets the whole value go before: bases are most of the memory then.
        """
        return replace(
            self,
            folds=self.folds[:1],
            shared=tuple(fit.without_first_fold() for fit in self.shared),
            chains=tuple(fit.without_first_fold() for fit in self.chains),
        )


@dataclass(frozen=True, slots=True, eq=False)
class SideWork:
    """What the bases of one side are made of, as a worker gets it."""

    weight: Array
    side: SideName
    moments: tuple[SideMoments, ...]
    metric: TwoSidedMetric
    groups: int
    exponents: Exponents

    def done(self, each: Each) -> SideFit:
        """Return the bases; `each` runs the folds."""
        return cross_fit(self.weight, self.side, self.moments, self.metric, each, self.groups, self.exponents)


def fit(
    collected: Collected, group: SiteGroup, workers: Workers, pool: Pool | None = None, *, release: bool = False
) -> Fitted:
    """Return bases and factors of a group of sites. pool: workers that take wide sides, if there are any.

    release: the moments are taken out of `collected` as they are used up, so that they and the bases that come of them
    are never in memory together.
    """
    moments = collected.moments if release else tuple(map(dict, collected.moments))
    chains = fit_chains(group, moments, workers)
    shared = fit_shared(group, moments, workers.each)
    by_side = _fit_sides(group, moments, workers, pool)
    for part in moments:
        part.clear()
    sides = {(site.id, side): fit for (site, side), fit in by_side.items() if fit is not None}
    bases = sides | {key: fit.basis for fit in shared for key in fit.keys}
    count = len(next(iter(bases.values())).folds) if bases else 0
    return Fitted(
        folds=tuple({key: fit.folds[fold] for key, fit in bases.items()} for fold in range(count)),
        final={key: fit.final for key, fit in sides.items()},
        krons={key: fit.kron for key, fit in sides.items()},
        dead=tuple(dict.fromkeys(site for (site, _), fit in by_side.items() if fit is None)),
        shared=shared,
        chains=chains,
    )


def _fit_sides(
    group: SiteGroup, moments: Sequence[Moments], workers: Workers, pool: Pool | None
) -> dict[Side, SideFit | None]:
    """Return the bases of every side that the sites' own schemes project, in its order.

    None where some fold has nothing to fit them to. The moments are taken out of `moments`.
    """
    sides = group.projected
    wide = [side for side in sides if width_of(*side) > WIDE]
    narrow = [side for side in sides if width_of(*side) <= WIDE]

    def one(place: Side, each: Each) -> SideFit | None:
        work = _work(group, place, moments)
        _let_go(place, moments)
        return None if work is None else work.done(each)

    fits = [one(place, workers.each) for place in wide] if pool is None else _fits_on(pool, group, wide, moments)
    fits += workers.each(lambda place: one(place, in_turn), narrow)
    by_side = dict(zip(wide + narrow, fits, strict=True))
    return {side: by_side[side] for side in sides}


def _fits_on(pool: Pool, group: SiteGroup, wide: list[Side], moments: Sequence[Moments]) -> list[SideFit | None]:
    """Return the bases of wide sides, by workers; what is sent stays here until they are back: a worker may die."""
    fits: list[SideFit | None] = []
    pieces = Lazy(len(wide), lambda index: _work(group, wide[index], moments))
    for place, made in zip(wide, in_order(pool, pieces, LOGGER.warning), strict=True):
        fits.append(made)
        _let_go(place, moments)
    return fits


def _work(group: SiteGroup, place: Side, moments: Sequence[Moments]) -> SideWork | None:
    site, side = place
    parts = [part.get((site.id, side)) for part in moments]
    known = tuple(part for part in parts if part is not None and not part.empty)
    if not known or len(known) < len(parts):
        return None
    return SideWork(group.weight(site), side, known, group.metric, site.groups, group.exponents)


def _let_go(place: Side, moments: Sequence[Moments]) -> None:
    site, side = place
    for part in moments:
        part.pop((site.id, side), None)
