"""Both passes over one group of sites: moments, bases, and every sample projected on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnx_lowrank import linalg
from onnx_lowrank.calibration.joint import Batch, JointFlow, sides_of, width_of
from onnx_lowrank.curvature import (
    SHRINK,
    Basis,
    SideMoments,
    SideName,
    bases,
    in_metric,
    kronecker,
    project,
    rises,
    tails,
)
from onnx_lowrank.schemes import SCHEMES, Scheme, largest
from onnx_lowrank.sensitivity.chains import Chains
from onnx_lowrank.sensitivity.grams import LARGE, add_gram, mirror, weight_gram
from onnx_lowrank.sensitivity.scored import Joint, Scored, never_rising
from onnx_lowrank.types import Array, Ranks, Site

if TYPE_CHECKING:
    from onnx_lowrank.sensitivity.joint import Collection

TINY = 1e-300
ENOUGH = 128
"""Positions for every dimension, over all samples, that moments are sums of, at least."""
MOST_LINES = 8
"""Of so many lines of an image at least one is looked at."""
PLENTY = 256
"""With more positions than this for every dimension, evenly spread rows are taken as well."""
WAITING = 32
"""Rows gather before their products are formed, all sites of a group together: this part of the memory allowed."""

Key = tuple[str, SideName]


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """One side of one site: the basis fitted without every fold, that of all samples, the A ⊗ B score held out."""

    folds: list[Basis]
    final: Basis
    kron: Array


class Passes:
    """Both passes over one group of sites."""

    def __init__(self, collection: Collection, flow: JointFlow, joint: Joint, progress: Callable[[int], None]) -> None:
        self.given, self.flow, self.joint, self.progress = collection, flow, joint, progress
        self.multiple = collection.options.rank_multiple
        self.fitted: list[dict[Key, Basis]] = []
        self.final: dict[Key, Basis] = {}
        self.kron: dict[Key, Array] = {}
        self.first = 0
        self.sides = [(site, side) for site in flow.sites for side in sides_of(site, self.multiple)]
        self.chains = Chains(flow, collection.found, self.multiple if collection.metric == "joint" else None)

    def run(self) -> None:
        """Put what is found into `joint`."""
        with linalg.Workers(self.given.options.threads) as self.workers:
            moments = [self._moments(part) for part in self.given.parts()]
            linalg.trim()
            self.chains.fit(moments, self.workers)
            fits = self.workers.each(
                lambda one: self._fit(*one, [part.pop((one[0].id, one[1]), None) for part in moments]), self.sides
            )
            for (site, side), fit in zip(self.sides, fits, strict=True):
                self._keep(site, side, fit)
            linalg.trim()
            self._score()

    def _batches(self, numbers: Sequence[int], head: Callable[..., Mapping[str, Array]]) -> Iterator[Batch]:
        feeds = [self.given.feeds[i] for i in numbers]
        return self.flow.run(feeds, numbers, head, batch=self.given.batch, separate=self.given.separate)

    def _moments(self, numbers: Sequence[int]) -> dict[Key, SideMoments]:
        """Pass 1: products of a batch in float32, their sums in float64."""
        sums: dict[Key, SideMoments] = {}
        waiting: dict[Key, list[tuple[Array, Array, int]]] = {}
        held = 0
        for batch in self._batches(numbers, self.given.objective.sampled):
            for site, side in self.sides:
                every, rows = self._thinned(site, side)
                part = slice(batch.numbers[0] % rows, None, rows)
                for z, raw in batch.raw(site, side, every):
                    if rows > 1:  # copies: a view would hold all the rows
                        z, raw = z[part].copy(), raw[part].copy()
                    waiting.setdefault((site.id, side), []).append((z, raw, batch.samples))
                    held += z.nbytes + raw.nbytes
            if held > self.given.options.memory // WAITING:
                self._sum(waiting, sums)
                held = 0
            self.progress(len(batch.numbers))
        self._sum(waiting, sums)
        for one in sums.values():
            mirror(one.Z)
            mirror(one.E)
        return sums

    def _sum(self, waiting: dict[Key, list[tuple[Array, Array, int]]], sums: dict[Key, SideMoments]) -> None:
        """Add what has gathered to upper triangles: one product of many rows is faster than many of few."""
        found = self.workers.each(lambda one: self._summed(*one, waiting, sums), self.sides)
        sums.update({(site.id, side): one for (site, side), one in zip(self.sides, found, strict=True) if one})

    def _summed(
        self,
        site: Site,
        side: SideName,
        waiting: dict[Key, list[tuple[Array, Array, int]]],
        sums: Mapping[Key, SideMoments],
    ) -> SideMoments | None:
        parts = waiting.pop((site.id, side), [])
        total = sums.get((site.id, side))
        if not parts:
            return total
        z = np.concatenate([part[0] for part in parts])
        e = self.flow.finish(site, side, np.concatenate([part[1] for part in parts]))
        scale = math.prod(self._thinned(site, side))
        if total is None:
            zeros = functools.partial(np.zeros, _shape(site, z.shape[1]))
            total = SideMoments(zeros(), zeros(), 0, 0)
        add_gram(total.Z, z, scale)
        add_gram(total.E, e, scale)
        positions, samples = total.positions + len(z) * scale, total.samples + sum(part[2] for part in parts)
        return SideMoments(total.Z, total.E, positions, samples)

    def _thinned(self, site: Site, side: SideName) -> tuple[int, int]:
        """Return of how many lines of an image, and then of how many rows, one is looked at.

        1 but where the samples have far more positions than moments need.
        """
        places = self.given.observed.places[site.id]
        positions = len(self.given.feeds) * sum(place.calls * math.prod(place.after) for place in places)
        width = width_of(site, side)
        lines = 1
        if all(place.after and place.before == place.after for place in places):
            lines = int(max(min(positions // (ENOUGH * width), MOST_LINES, places[0].after[0] // 2), 1))
        return lines, int(max(positions / lines // (PLENTY * width), 1))

    def _fit(self, site: Site, side: SideName, parts: Sequence[SideMoments | None]) -> _Fit | None:
        """Return the bases of every fold and of all samples; the shrinkage is the one that loses least where held out.

        None: some fold has nothing to fit them to.
        """
        given = [part for part in parts if part is not None]
        if not given or len(given) < len(parts) or any(part.empty for part in given):
            return None
        total = given[0]
        for part in given[1:]:
            total = total + part
        gram = weight_gram(self.given.found.stored(site), side, site.groups)
        width = gram.shape[-1]
        rank = min(width, math.prod(site.shape) // site.groups // width)
        tried, losses = [], []
        for held in given:
            rest = SideMoments(
                total.Z - held.Z, total.E - held.E, total.positions - held.positions, total.samples - held.samples
            )
            fold = bases(in_metric(rest, side, gram, self.given.metric), side, gram, rank, SHRINK)
            losses.append([kronecker(basis, held) for basis in fold])
            tried.append([basis.single() for basis in fold])
        worth = [sum(float(np.log(loss[i][1:] + TINY).sum()) for loss in losses) for i in range(len(SHRINK))]
        best = int(np.argmin(worth))
        whole = in_metric(total, side, gram, self.given.metric)
        return _Fit(
            folds=[one[best] for one in tried],
            final=bases(whole, side, gram, rank, SHRINK[best : best + 1])[0],
            kron=np.mean([loss[best] for loss in losses], axis=0),
        )

    def _keep(self, site: Site, side: SideName, fit: _Fit | None) -> None:
        key = (site.id, side)
        if fit is not None:
            self.final[key], self.kron[key] = fit.final, fit.kron
            self.fitted = self.fitted or [{} for _ in fit.folds]
            for fold, basis in zip(self.fitted, fit.folds, strict=True):
                fold[key] = basis
        elif len(self.flow.broken) == len(self.given.feeds):
            self.joint.unreached[site.id] = "the gradient of the loss is not finite on these samples"
        elif site not in self.joint.dead:
            self.joint.dead.append(site)

    def _score(self) -> None:
        """Pass 2: every sample on the basis that was fitted without it."""
        found: dict[Key, list[Array]] = {}
        signed: dict[Key, list[Array]] = {}
        objective = self.given.objective
        for fold, numbers in enumerate(self.given.parts_scored()):
            if fold < len(self.fitted):
                self._project(fold, numbers, objective.sampled, found)
                self.first = self.first or sum(map(len, next(iter(found.values()), [])))
                if objective.signed:
                    self._project(fold, numbers, objective.labelled, signed, mean=True)
            self.progress(len(numbers))
        self.flow.close()
        linalg.trim()
        jobs = []
        for site in self.flow.sites:
            for scheme in SCHEMES:
                keys = [(site.id, side) for side in scheme.sides(site.shape, site.groups)]
                plain = self.given.metric == "weights"  # there, what is compared is truncations of one matrix
                fits = scheme.ranks(site.shape, self.multiple, site.groups) and not (plain and len(keys) > 1)
                if keys and fits and all(key in found for key in keys) and site not in self.joint.dead:
                    jobs.append((site, scheme, found, signed))
        large = [job for job in jobs if job[0].parameters > LARGE]  # one at a time: each takes several copies
        small = [job for job in jobs if job[0].parameters <= LARGE]
        scored = [self._scored(*job) for job in large] + self.workers.each(lambda job: self._scored(*job), small)
        for (site, scheme, *_), one in zip(large + small, scored, strict=True):
            self.joint.scored[site.id, scheme.name] = one
        dead = {site.id for site in self.joint.dead}
        self.joint.scored |= {key: one for key, one in self.chains.scored(self.first) if key[0] not in dead}

    def _project(
        self,
        fold: int,
        numbers: Sequence[int],
        head: Callable[..., Mapping[str, Array]],
        into: dict[Key, list[Array]],
        *,
        mean: bool = False,
    ) -> None:
        for batch in self._batches(numbers, head):
            scale = batch.samples / batch.units  # a unit of several samples: its gradient is their sum
            scale = -scale if mean else math.sqrt(scale)  # ⟨G, δ⟩ = −Σ_{i ≥ k} v_i
            for key, one in self.workers.dealt(functools.partial(self._projected, fold, batch), self.sides):
                if one is not None:
                    into.setdefault(key, []).append(one / scale)
            self.chains.project(fold, batch, scale, self.workers, mean=mean)

    def _projected(self, fold: int, batch: Batch, place: tuple[Site, SideName]) -> tuple[Key, Array | None]:
        site, side = place
        basis = self.fitted[fold].get((site.id, side))
        if basis is None:
            return (site.id, side), None
        each = [project(basis, z, e, batch.units) for z, e in batch.vectors(site, side)]
        return (site.id, side), np.sum(each, axis=0)

    def _scored(
        self, site: Site, scheme: Scheme, found: Mapping[Key, list[Array]], signed: Mapping[Key, list[Array]]
    ) -> Scored:
        sides = scheme.sides(site.shape, site.groups)
        ranks = tuple(scheme.ranks(site.shape, self.multiple, site.groups))
        tail = _added(site, sides, ranks, found)
        rise, deviation = rises(tail)
        krons = {side: self.kron[site.id, side] for side in sides}
        errors = {side: kron / kron[0] if kron[0] > 0 else np.zeros_like(kron) for side, kron in krons.items()}
        weight, most = self.given.found.weight(site), largest(ranks)
        if self.given.metric == "weights":
            plain = scheme.factor(weight, None, None, most, site.groups)
            errors = {sides[0]: np.array([plain.error((rank,)) for rank in range(most[0] + 1)])}
        return Scored(
            factors=scheme.cut(weight, {s: self.final[site.id, s] for s in sides}, errors, most, site.groups),
            ranks=ranks,
            tails=tail,
            slopes=_added(site, sides, ranks, signed) if all((site.id, s) in signed for s in sides) else None,
            rise=never_rising(rise, ranks),
            deviation=deviation,
            kron=np.sum([krons[s][[r[i] for r in ranks]] for i, s in enumerate(sides)], axis=0),
            held=scheme.cut(weight, {s: self.fitted[0][site.id, s] for s in sides}, errors, most, site.groups),
            first=self.first,
        )


def _shape(site: Site, width: int) -> tuple[int, ...]:
    """Return the shape of a second moment of `width` channels: the diagonal blocks of a grouped weight."""
    each = width // site.groups
    return (each, each) if site.groups == 1 else (site.groups, each, each)


def _added(site: Site, sides: Sequence[SideName], ranks: Sequence[Ranks], found: Mapping[Key, list[Array]]) -> Array:
    """Return (samples, options) −⟨Γ_s, δ⟩: what the truncations of all sides do to first order in each other."""
    parts = (tails(np.concatenate(found[site.id, side]), [r[i] for r in ranks]) for i, side in enumerate(sides))
    return np.asarray(np.sum(list(parts), axis=0))
