"""Shared inputs in the joint metric: one projection of the input that several weights share, scored for each of them.

On the inputs the second moments of the gradients that come through the weights add up (`schemes.shared_factor`), so
the basis is fitted to what pass 1 has summed for each of them. A sample is projected on it once for every weight, and
their rises add like those of any other weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.collection.cross_fit import Each, SideFit, cross_fit
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.scores import Scores, never_rising
from onnx_lowrank.collection.site_group import SiteGroup
from onnx_lowrank.numerics.kronecker_metric import SideMoments, kronecker, rises, tails
from onnx_lowrank.schemes import cut_shared, largest, shared_ranks
from onnx_lowrank.types import Array, SharedInput


@dataclass(frozen=True, slots=True, eq=False)
class SharedFit:
    """One shared input: its basis without every fold, and with all samples.

    krons: of every member, the (r + 1,) A ⊗ B score held out.
    """

    shared_input: SharedInput
    basis: SideFit
    krons: tuple[Array, ...]

    @property
    def keys(self) -> list[CacheKey]:
        """What samples are projected on the basis: a key for every member."""
        return [(member, "shared") for member in self.shared_input.members]

    def without_first_fold(self) -> SharedFit:
        """Return the same without what was fitted without the other folds."""
        return replace(self, basis=replace(self.basis, folds=self.basis.folds[:1]))


def fit_shared(
    group: SiteGroup, moments: Sequence[Mapping[CacheKey, SideMoments]], each: Each
) -> tuple[SharedFit, ...]:
    """Fit every shared input without each fold and with all; one of which some fold says nothing gets no basis."""
    fits = []
    for shared in group.shared_inputs:
        parts = [[part.get((member, "in")) for member in shared.members] for part in moments]
        known = [[own for own in part if own is not None and not own.empty] for part in parts]
        if not known or any(len(part) < len(shared.members) for part in known):
            continue
        stacked = np.concatenate(_weights(group, shared))
        basis = cross_fit(stacked, "in", [_added(part) for part in known], group.metric, each, 1, group.exponents)
        krons = (
            np.mean([kronecker(fold, part[i]) for fold, part in zip(basis.folds, known, strict=True)], axis=0)
            for i in range(len(shared.members))
        )
        fits.append(SharedFit(shared, basis, tuple(krons)))
    return tuple(fits)


def score_shared(
    fit: SharedFit,
    group: SiteGroup,
    sampled: Mapping[CacheKey, Sequence[Array]],
    signed: Mapping[CacheKey, Sequence[Array]],
    first: int,
) -> Iterator[tuple[str, Scores]]:
    """Yield every member's site id and scores; sampled, signed: samples' projections, `first` of the first fold."""
    ranks = shared_ranks(fit.shared_input, group.multiple)
    counts, most = [rank for (rank,) in ranks], largest(ranks)
    weights = _weights(group, fit.shared_input)
    errors = [kron / kron[0] if kron[0] > 0 else np.zeros_like(kron) for kron in fit.krons]
    final, held = (cut_shared(weights, basis, errors, most) for basis in (fit.basis.final, fit.basis.folds[0]))
    for i, key in enumerate(fit.keys):
        tail = tails(np.concatenate(sampled[key]), counts)
        rise, deviation = rises(tail)
        yield (
            key[0],
            Scores(
                factors=final[i],
                ranks=tuple(ranks),
                tails=tail,
                slopes=tails(np.concatenate(signed[key]), counts) if key in signed else None,
                rise=never_rising(rise, ranks),
                deviation=deviation,
                kron=fit.krons[i][counts],
                held=held[i],
                first=first,
            ),
        )


def _weights(group: SiteGroup, shared: SharedInput) -> list[Array]:
    by_id = {site.id: site for site in group.sites}
    return [group.weight(by_id[member]) for member in shared.members]


def _added(members: Sequence[SideMoments]) -> SideMoments:
    """Return the moments of the stacked weight: all have seen the same input, their gradients add."""
    E = np.sum([own.E for own in members], axis=0)
    return SideMoments(members[0].Z, E, members[0].positions, members[0].samples)
