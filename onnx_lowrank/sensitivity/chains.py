"""Schemes that project no side of a weight: fitted on the moments of both sides, scored through the chain itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.calibration.joint import Batch, JointFlow
from onnx_lowrank.curvature import SideMoments, SideName, rises, tails
from onnx_lowrank.linalg import Workers
from onnx_lowrank.schemes import SCHEMES, ChainScheme, NestedPair
from onnx_lowrank.sensitivity.scored import Scored, never_rising
from onnx_lowrank.sites import Found
from onnx_lowrank.types import Array, Ranks, Site

SHRINK = 1e-2
"""Share of the mean eigenvalue that is added to A and to B."""

Key = tuple[str, SideName]


@dataclass(slots=True, eq=False)
class _Chained:
    """One site by one scheme: the factors fitted without every fold and with all samples, and what samples gave."""

    site: Site
    scheme: ChainScheme
    ranks: list[Ranks]
    folds: list[NestedPair] = field(default_factory=list)
    final: NestedPair | None = None
    sampled: list[Array] = field(default_factory=list)
    signed: list[Array] = field(default_factory=list)


class Chains:
    """All such pairs of a group of sites. `multiple`: of ranks; None: none at all (the metric is not the joint one)."""

    def __init__(self, flow: JointFlow, found: Found, multiple: int | None) -> None:
        self._flow, self._found = flow, found
        self._all = [
            _Chained(site, scheme, ranks)
            for site in (flow.sites if multiple is not None else ())
            for scheme in SCHEMES
            if isinstance(scheme, ChainScheme) and (ranks := scheme.ranks(site.shape, multiple or 1, site.groups))
        ]

    def fit(self, parts: Sequence[Mapping[Key, SideMoments]], workers: Workers) -> None:
        """Fit every chain without each fold and with all; a site that some fold says nothing of gets none."""
        for one in self._all:
            given = [(part.get((one.site.id, "in")), part.get((one.site.id, "out"))) for part in parts]
            known = [(x, y) for x, y in given if x is not None and y is not None and not (x.empty or y.empty)]
            if len(known) < max(len(given), 2):
                continue
            inner, outer = (sum((pair[i] for pair in known[1:]), start=known[0][i]) for i in range(2))
            metrics = [(inner.Z - x.Z, outer.E - y.E) for x, y in known]
            weight = self._found.weight(one.site)
            *one.folds, one.final = workers.each(
                functools.partial(_fitted, one.scheme, weight, one.ranks[-1]), [*metrics, (inner.Z, outer.E)]
            )

    def project(self, fold: int, batch: Batch, scale: float, workers: Workers, *, mean: bool) -> None:
        """Score a batch by the factors that were fitted without its fold."""
        ready = [one for one in self._all if one.final is not None]

        def projected(one: _Chained) -> Array:
            chain = one.folds[fold].chain(one.ranks[-1])
            parts = self._flow.through(batch, one.site, chain, (f"{one.site.id}/{one.scheme.name}", fold))
            each = (np.einsum("pd,pd->p", z, e, dtype=np.float64) for z, e in batch.vectors(one.site, "out"))
            whole = sum(call.reshape(batch.units, -1).sum(1) for call in each)
            rest = whole - parts.sum(1)  # of the components beyond the largest rank
            return np.column_stack([parts, rest])

        for one, found in zip(ready, workers.dealt(projected, ready), strict=True):
            (one.signed if mean else one.sampled).append(found / scale)

    def scored(self, first: int) -> Iterator[tuple[tuple[str, str], Scored]]:
        """Yield (site id, scheme) and what was found; `first`: samples of the first fold."""
        for one in self._all:
            if one.final is not None and one.sampled:
                yield (one.site.id, one.scheme.name), self._one(one, one.final, first)

    def _one(self, one: _Chained, final: NestedPair, first: int) -> Scored:
        ranks = [rank for (rank,) in one.ranks]
        tail = tails(np.concatenate(one.sampled), ranks)
        rise, deviation = rises(tail)
        return Scored(
            factors=final,
            ranks=tuple(one.ranks),
            tails=tail,
            slopes=tails(np.concatenate(one.signed), ranks) if one.signed else None,
            rise=never_rising(rise, one.ranks),
            deviation=deviation,
            kron=final.errors[ranks] * 0.5 * float(np.mean(tails(np.concatenate(one.sampled), [0]) ** 2)),
            held=one.folds[0],
            first=first,
        )


def _fitted(scheme: ChainScheme, weight: Array, most: Ranks, metric: tuple[Array, Array]) -> NestedPair:
    A, B = map(_shrunk, metric)
    return scheme.chained(weight, A, B, most)


def _shrunk(moments: Array) -> Array:
    """Return the second moment, of mean eigenvalue 1, with a share of the identity added: none is 0 then."""
    width = len(moments)
    return moments / max(float(moments.trace()) / width, 1e-300) + SHRINK * np.eye(width)
