"""Families in the joint metric: one projection of the input that siblings share, scored for each of them.

On the inputs the second moments of the gradients that come through the siblings add up (`schemes.shared`), so the
basis is fitted to what pass 1 has summed for each of them. A sample is projected on it once for every sibling, and
their rises add like those of any other weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.collection.cross_fit import Each, Fit, fitted
from onnx_lowrank.collection.forward_backward import JointFlow
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.scores import Scores, never_rising
from onnx_lowrank.numerics.kronecker_metric import SideMoments, TwoSidedMetric, kronecker, rises, tails
from onnx_lowrank.schemes import cut_shared, largest, shared_ranks
from onnx_lowrank.types import Array, SharedInput, Site
from onnx_lowrank.weights.inventory import Inventory


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """One family: its basis without every fold and with all samples. krons: of every member, (r + 1,) held out."""

    shared_input: SharedInput
    basis: Fit
    krons: tuple[Array, ...]


class SharedBases:
    """All families of a group of sites. `multiple`: of ranks."""

    def __init__(self, flow: JointFlow, inventory: Inventory, metric: TwoSidedMetric, multiple: int) -> None:
        here = {site.id for site in flow.sites}
        self._found, self._metric, self._multiple = inventory, metric, multiple
        self._sites = {site.id: site for site in flow.sites}
        self.shared_inputs = [shared for shared in inventory.shared_inputs if here.issuperset(shared.members)]
        self._fitted: list[_Fitted] = []

    @property
    def members(self) -> list[Site]:
        """All siblings."""
        return [self._sites[member] for shared in self.shared_inputs for member in shared.members]

    @property
    def same(self) -> dict[CacheKey, CacheKey]:
        """Every sibling but the first -> the first, which has the same input."""
        return {(m, "in"): (shared.members[0], "in") for shared in self.shared_inputs for m in shared.members[1:]}

    def fit(self, moments: Sequence[Mapping[CacheKey, SideMoments]], each: Each) -> None:
        """Fit every family without each fold and with all; one of which some fold says nothing gets no basis."""
        for shared in self.shared_inputs:
            parts = [[part.get((member, "in")) for member in shared.members] for part in moments]
            known = [[one for one in part if one is not None and not one.empty] for part in parts]
            if not known or any(len(part) < len(shared.members) for part in known):
                continue
            weights = self._weights(shared)
            basis = fitted(np.concatenate(weights), "in", [_added(part) for part in known], self._metric, each)
            krons = (
                np.mean([kronecker(fold, part[i]) for fold, part in zip(basis.folds, known, strict=True)], axis=0)
                for i in range(len(shared.members))
            )
            self._fitted.append(_Fitted(shared, basis, tuple(krons)))

    def bases(self) -> Iterator[tuple[CacheKey, Fit]]:
        """Yield the basis of every member of a family that has one."""
        for one in self._fitted:
            yield from (((member, "shared"), one.basis) for member in one.shared_input.members)

    def scored(
        self, found: Mapping[CacheKey, list[Array]], signed: Mapping[CacheKey, list[Array]], first: int
    ) -> Iterator[tuple[str, Scores]]:
        """Yield every member's site id and score; `found`, `signed`: what samples gave, `first` of the first fold."""
        for one in self._fitted:
            members = one.shared_input.members
            if all((member, "shared") in found for member in members):
                yield from zip(members, self._scored(one, found, signed, first), strict=True)

    def _scored(
        self, one: _Fitted, found: Mapping[CacheKey, list[Array]], signed: Mapping[CacheKey, list[Array]], first: int
    ) -> Iterator[Scores]:
        ranks = shared_ranks(one.shared_input, self._multiple)
        counts, most = [rank for (rank,) in ranks], largest(ranks)
        weights = self._weights(one.shared_input)
        errors = [kron / kron[0] if kron[0] > 0 else np.zeros_like(kron) for kron in one.krons]
        final, held = (cut_shared(weights, basis, errors, most) for basis in (one.basis.final, one.basis.folds[0]))
        for i, member in enumerate(one.shared_input.members):
            key: CacheKey = (member, "shared")
            tail = tails(np.concatenate(found[key]), counts)
            rise, deviation = rises(tail)
            yield Scores(
                factors=final[i],
                ranks=tuple(ranks),
                tails=tail,
                slopes=tails(np.concatenate(signed[key]), counts) if key in signed else None,
                rise=never_rising(rise, ranks),
                deviation=deviation,
                kron=one.krons[i][counts],
                held=held[i],
                first=first,
            )

    def _weights(self, shared: SharedInput) -> list[Array]:
        return [self._found.stored(self._sites[member]) for member in shared.members]


def _added(shared_inputs: Sequence[SideMoments]) -> SideMoments:
    """Return the moments of the stacked weight: all have seen the same input, their gradients add."""
    E = np.sum([one.E for one in shared_inputs], axis=0)
    return SideMoments(shared_inputs[0].Z, E, shared_inputs[0].positions, shared_inputs[0].samples)
