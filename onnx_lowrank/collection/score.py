"""From projected samples to scores: the loss of every rank of every scheme, with its factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from onnx_lowrank.collection.chain_schemes import score_chain
from onnx_lowrank.collection.fit import Fitted
from onnx_lowrank.collection.project import Projected
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.scores import ScoreKey, Scores, never_rising
from onnx_lowrank.collection.shared_bases import score_shared
from onnx_lowrank.collection.site_group import SiteGroup
from onnx_lowrank.numerics.gram import LARGE
from onnx_lowrank.numerics.kronecker_metric import Basis, rises, tails
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.schemes import Factors, FittedSide, Scheme, fitting, largest, ranks_of
from onnx_lowrank.types import SHARED, Array, Ranks, SideName, Site

_Pair: TypeAlias = tuple[Site, Scheme]


def score(projected: Projected, fitted: Fitted, group: SiteGroup, workers: Workers) -> dict[ScoreKey, Scores]:
    """Return (site id, scheme) -> scores of all sites that have some; not all of them need be finite."""
    dead = {site.id for site in fitted.dead}
    pairs = [pair for pair in _projecting(group) if _known(pair, projected) and pair[0].id not in dead]
    large = [pair for pair in pairs if pair[0].parameters > LARGE]  # one at a time: each takes several copies
    small = [pair for pair in pairs if pair[0].parameters <= LARGE]

    def of(pair: _Pair) -> Scores:
        return _scores(*pair, projected, fitted, group)

    scores = [of(pair) for pair in large] + workers.each(of, small)
    scored = {(site.id, scheme.name): own for (site, scheme), own in zip(large + small, scores, strict=True)}
    for fit in fitted.chains:
        sampled = projected.sampled.chains.get(fit.pair.key)
        if sampled and fit.pair.site.id not in dead:
            signed = projected.signed.chains.get(fit.pair.key, ())
            scored[fit.pair.key] = score_chain(fit, sampled, signed, projected.first)
    sampled_sides, signed_sides = projected.sampled.sides, projected.signed.sides
    for shared in fitted.shared:
        if all(key in sampled_sides for key in shared.keys):
            members = score_shared(shared, group, sampled_sides, signed_sides, projected.first)
            scored |= {(site, SHARED): own for site, own in members}
    return scored


def _projecting(group: SiteGroup) -> list[_Pair]:
    """Return the sites by the schemes that project sides of them."""
    plain = group.metric == "weights"  # there, what is compared is truncations of one matrix
    return [
        (site, scheme)
        for site in group.sites
        for scheme, _ in fitting(site, group.multiple)
        if (sides := scheme.sides(site.shape, site.groups)) and not (plain and len(sides) > 1)
    ]


def _keys(site: Site, scheme: Scheme) -> list[CacheKey]:
    return [(site.id, side) for side in scheme.sides(site.shape, site.groups)]


def _known(pair: _Pair, projected: Projected) -> bool:
    return all(key in projected.sampled.sides for key in _keys(*pair))


def _scores(site: Site, scheme: Scheme, projected: Projected, fitted: Fitted, group: SiteGroup) -> Scores:
    sides = scheme.sides(site.shape, site.groups)
    ranks = tuple(ranks_of(scheme, site, group.multiple))
    tail = _added(site, sides, ranks, projected.sampled.sides)
    rise, deviation = rises(tail)
    krons = {side: fitted.krons[site.id, side] for side in sides}
    errors = {side: kron / kron[0] if kron[0] > 0 else np.zeros_like(kron) for side, kron in krons.items()}
    weight, most = group.weight(site), largest(ranks)  # a view: schemes copy what they change
    if group.metric == "weights":
        plain = scheme.factor(weight, None, None, most, site.groups)
        errors = {sides[0]: np.array([plain.error((rank,)) for rank in range(most[0] + 1)])}

    def cut(bases: Mapping[CacheKey, Basis]) -> Factors:
        fitted_sides = {side: FittedSide(bases[site.id, side], errors[side]) for side in sides}
        return scheme.cut(weight, fitted_sides, most, site.groups)

    signed = projected.signed.sides
    return Scores(
        factors=cut(fitted.final),
        ranks=ranks,
        tails=tail,
        slopes=_added(site, sides, ranks, signed) if all((site.id, side) in signed for side in sides) else None,
        rise=never_rising(rise, ranks),
        deviation=deviation,
        kron=np.sum([krons[side][[rank[i] for rank in ranks]] for i, side in enumerate(sides)], axis=0),
        held=cut(fitted.folds[0]),
        first=projected.first,
    )


def _added(
    site: Site, sides: Sequence[SideName], ranks: Sequence[Ranks], projections: Mapping[CacheKey, Sequence[Array]]
) -> Array:
    """Return (samples, options) −⟨Γ_s, δ⟩: what the truncations of all sides do to first order in each other."""
    parts = (
        tails(np.concatenate(projections[site.id, side]), [rank[i] for rank in ranks]) for i, side in enumerate(sides)
    )
    return np.asarray(np.sum(list(parts), axis=0))
