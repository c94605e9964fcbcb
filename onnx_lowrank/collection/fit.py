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
from onnx_lowrank.numerics.kronecker_metric import Basis
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.types import Array, Site

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


def fit(collected: Collected, group: SiteGroup, workers: Workers, *, release: bool = False) -> Fitted:
    """Return bases and factors of a group of sites.

    release: the moments are taken out of `collected` as they are used up, so that they and the bases that come of them
    are never in memory together.
    """
    moments = collected.moments if release else tuple(map(dict, collected.moments))
    chains = fit_chains(group, moments, workers)
    shared = fit_shared(group, moments, workers.each)
    by_side = _fit_sides(group, moments, workers)
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


def _fit_sides(group: SiteGroup, moments: Sequence[Moments], workers: Workers) -> dict[Side, SideFit | None]:
    """Return the bases of every side that the sites' own schemes project, in its order."""
    sides = group.projected
    wide = [side for side in sides if width_of(*side) > WIDE]
    narrow = [side for side in sides if width_of(*side) <= WIDE]
    fits = [_fit_side(group, side, moments, workers.each) for side in wide]
    fits += workers.each(lambda side: _fit_side(group, side, moments, in_turn), narrow)
    by_side = dict(zip(wide + narrow, fits, strict=True))
    return {side: by_side[side] for side in sides}


def _fit_side(group: SiteGroup, place: Side, moments: Sequence[Moments], each: Each) -> SideFit | None:
    """Return the bases, None where some fold has nothing to fit them to. The moments are taken out of `moments`."""
    site, side = place
    parts = [part.pop((site.id, side), None) for part in moments]
    known = [part for part in parts if part is not None and not part.empty]
    if not known or len(known) < len(parts):
        return None
    return cross_fit(group.weight(site), side, known, group.metric, each, site.groups, group.exponents)
