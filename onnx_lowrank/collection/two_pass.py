"""Both passes over one group of sites: moments, bases, and every sample projected on them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onnx_lowrank.collection.chain_schemes import Chains
from onnx_lowrank.collection.cross_fit import Each, Fit, fitted, in_turn
from onnx_lowrank.collection.forward_backward import Batch, JointFlow
from onnx_lowrank.collection.overflow import leave_infinite, too_large
from onnx_lowrank.collection.projected_sides import looked_at, sides_of, width_of
from onnx_lowrank.collection.sample_cache import CachedSample, CacheKey, SampleCache, cached, projected, size
from onnx_lowrank.collection.scores import Joint, Scores, never_rising
from onnx_lowrank.collection.shared_bases import SharedBases
from onnx_lowrank.collection.side_moments import Gathering, thinned
from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.gram import LARGE
from onnx_lowrank.numerics.kronecker_metric import Basis, SideMoments, SideName, project, rises, tails
from onnx_lowrank.schemes import SCHEMES, Scheme, largest, ranks_of
from onnx_lowrank.types import SHARED, Array, Ranks, Site

if TYPE_CHECKING:
    from onnx_lowrank.collection.joint_collection import Collection

WAITING = 64
"""Rows gather before their products are formed, all sites of a group together: this part of the memory allowed."""
WIDE = 256
"""Sides with more dimensions than this are decomposed one at a time, fold by fold on as many threads."""


class Passes:
    """Both passes over one group of sites."""

    def __init__(self, collection: Collection, flow: JointFlow, joint: Joint, progress: Callable[[int], None]) -> None:
        self.given, self.flow, self.joint, self.progress = collection, flow, joint, progress
        self.multiple = collection.options.rank_multiple
        self.fitted: list[dict[CacheKey, Basis]] = []
        self.final: dict[CacheKey, Basis] = {}
        self.kron: dict[CacheKey, Array] = {}
        self.first = 0
        here = replace(collection.inventory, sites=tuple(flow.sites))
        cached = looked_at(here, self.multiple)
        self.sides = [(site, side) for site in flow.sites for side in cached[site.id]]
        self.members_by_site = SharedBases(flow, here, collection.metric, self.multiple)
        self.chains = Chains(flow, collection.inventory, self.multiple if collection.metric == "joint" else None)
        self.kept = SampleCache(0, 0)

    def run(self) -> dict[str, str]:
        """Put what is found into `joint`. Return the sites that have to be left out first, with the reason, if any."""
        scored = self.given.parts_scored()
        self.kept = SampleCache(self._kept_bytes(), self.given.options.memory)
        with linalg.Workers(self.given.options.runtime.threads) as self.workers, contextlib.closing(self.kept):
            moments = [self._moments(part, picks) for part, picks in zip(self.given.parts(), scored, strict=True)]
            if overflowing := too_large(self.flow, self.given.parts(), moments):
                return overflowing
            if self.kept.open and not self.given.objective.signed:
                self.flow.close()  # nothing is run again
            linalg.trim()
            self.chains.fit(moments, self.workers)
            self.members_by_site.fit(moments, self.workers.each)
            self._fit_all(moments)
            moments.clear()
            linalg.trim()
            self._score()
        return {}

    def _kept_bytes(self) -> float:
        """Return what is kept of all samples that are scored; a kernel's inputs may be more than its outputs."""
        each = float(sum(self.given.observed.bytes[site.id] for site in self.chains.sites))
        for site, side in self.sides:
            where = self.given.observed.positions[site.id]
            count = sum(at.calls * math.prod(map(max, at.before, at.after)) for at in where)
            each += size(width_of(site, side), count) * site.groups
        return each * sum(map(len, self.given.parts_scored()))

    def _batches(self, numbers: Sequence[int], head: Callable[..., Mapping[str, Array]]) -> Iterator[Batch]:
        feeds = [self.given.feeds[i] for i in numbers]
        return self.flow.run(feeds, numbers, head, batch=self.given.batch, separate=self.given.separate)

    def _moments(self, numbers: Sequence[int], scored: Sequence[int]) -> dict[CacheKey, SideMoments]:
        """Pass 1: the sums of one fold. Of samples to be scored all is kept."""
        given = self.given
        sides = [(one, thinned(*one, given.observed, len(given.feeds))) for one in self.sides]
        gathering = Gathering(sides, self.workers, given.options.memory // WAITING, self.members_by_site.same)
        for batch in self._batches(numbers, given.objective.sampled):
            gathering.add(batch)
            self._remember(batch, scored)
            self.progress(len(batch.numbers))
            del batch  # before the next one runs
        return gathering.total()

    def _remember(self, batch: Batch, scored: Sequence[int]) -> None:
        picks = [i for i, number in enumerate(batch.numbers) if number in scored]
        if batch.units != len(batch.numbers):  # samples of several units, or that cannot be told apart
            self.kept.close()
        if not picks or not self.kept.open:
            return
        found = self.workers.map_striped(lambda place: self._seen(batch, picks, *place), self.sides)
        for nth, index in enumerate(picks):
            each: dict[CacheKey, CachedSample] = {
                (site.id, side): one[nth] for (site, side), one in zip(self.sides, found, strict=True)
            }
            each |= self.chains.seen(batch, index)
            self.kept.put(batch.numbers[index], batch.samples / batch.units, each)

    def _seen(self, batch: Batch, picks: Sequence[int], site: Site, side: SideName) -> list[CachedSample]:
        pairs = [
            (z.reshape(batch.units, -1, z.shape[1]), e.reshape(batch.units, -1, e.shape[1]))
            for z, e in batch.vectors(site, side)
        ]
        return [cached([(z[i], e[i]) for z, e in pairs], site.groups) for i in picks]

    def _fit_all(self, moments: Sequence[dict[CacheKey, SideMoments]]) -> None:
        own = [(site, side) for site, side in self.sides if side in sides_of(site, self.multiple)]
        wide = [one for one in own if width_of(*one) > WIDE]
        rest = [one for one in own if width_of(*one) <= WIDE]
        fits = [self._fit(*one, moments, self.workers.each) for one in wide]
        fits += self.workers.each(lambda one: self._fit(*one, moments, in_turn), rest)
        found = {(site.id, side): fit for (site, side), fit in zip(wide + rest, fits, strict=True)}
        for site, side in own:
            self._keep(site, side, found[site.id, side])
        for key, fit in self.members_by_site.bases():
            self._hold(key, fit)

    def _fit(
        self, site: Site, side: SideName, moments: Sequence[dict[CacheKey, SideMoments]], each: Each
    ) -> Fit | None:
        """Return the bases, None where some fold has nothing to fit them to. The moments are taken out of `moments`."""
        given = [one for part in moments if (one := part.pop((site.id, side), None)) is not None]
        if not given or len(given) < len(moments) or any(part.empty for part in given):
            return None
        return fitted(self.given.inventory.stored(site), side, given, self.given.metric, each, site.groups)

    def _keep(self, site: Site, side: SideName, fit: Fit | None) -> None:
        if fit is not None:
            self.final[site.id, side], self.kron[site.id, side] = fit.final, fit.kron
            self._hold((site.id, side), fit)
        elif site not in self.joint.dead:
            self.joint.dead.append(site)

    def _hold(self, key: CacheKey, fit: Fit) -> None:
        """Keep what samples are projected on."""
        self.fitted = self.fitted or [{} for _ in fit.folds]
        for fold, basis in zip(self.fitted, fit.folds, strict=True):
            fold[key] = basis

    def _score(self) -> None:
        """Pass 2: every sample on the basis that was fitted without it."""
        found: dict[CacheKey, list[Array]] = {}
        signed: dict[CacheKey, list[Array]] = {}
        objective = self.given.objective
        for fold, numbers in enumerate(self.given.parts_scored()):
            if fold < len(self.fitted):
                if self.kept.open:
                    self._recall(fold, numbers, found)
                else:
                    self._project(fold, numbers, objective.sampled, found)
                self.first = self.first or sum(map(len, next(iter(found.values()), [])))
                if objective.signed:
                    self._project(fold, numbers, objective.labelled, signed, mean=True)
            self.flow.release()
            self.progress(len(numbers))
        self.flow.close()
        del self.fitted[1:]  # only what was fitted without the first fold is told
        self.chains.release()
        linalg.trim()
        jobs = []
        for site in self.flow.sites:
            for scheme in SCHEMES:
                keys = [(site.id, side) for side in scheme.sides(site.shape, site.groups)]
                plain = self.given.metric == "weights"  # there, what is compared is truncations of one matrix
                fits = ranks_of(scheme, site, self.multiple) and not (plain and len(keys) > 1)
                if keys and fits and all(key in found for key in keys) and site not in self.joint.dead:
                    jobs.append((site, scheme, found, signed))
        large = [job for job in jobs if job[0].parameters > LARGE]  # one at a time: each takes several copies
        small = [job for job in jobs if job[0].parameters <= LARGE]
        scored = [self._scored(*job) for job in large] + self.workers.each(lambda job: self._scored(*job), small)
        for (site, scheme, *_), one in zip(large + small, scored, strict=True):
            self.joint.scored[site.id, scheme.name] = one
        dead = {site.id for site in self.joint.dead}
        self.joint.scored |= {key: one for key, one in self.chains.scored(self.first) if key[0] not in dead}
        self.joint.scored |= {
            (site, SHARED): one for site, one in self.members_by_site.scored(found, signed, self.first)
        }
        leave_infinite(self.joint, self.flow.sites, self.members_by_site.shared_inputs)

    def _recall(self, fold: int, numbers: Sequence[int], into: dict[CacheKey, list[Array]]) -> None:
        """Project what pass 1 kept, instead of running it again."""
        for number in (number for number in numbers if number not in self.flow.broken):
            weight, given = self.kept.get(number)
            keys = [key for key in self.fitted[fold] if _source(key) in given]
            for key, one in zip(keys, self._projections(fold, keys, given), strict=True):
                into.setdefault(key, []).append(one / math.sqrt(weight))
            self.chains.recall(fold, given, math.sqrt(weight), self.workers)

    def _projections(self, fold: int, keys: Sequence[CacheKey], given: Mapping[CacheKey, CachedSample]) -> list[Array]:
        return self.workers.map_striped(lambda key: projected(self.fitted[fold][key], given[_source(key)]), keys)

    def _project(
        self,
        fold: int,
        numbers: Sequence[int],
        head: Callable[..., Mapping[str, Array]],
        into: dict[CacheKey, list[Array]],
        *,
        mean: bool = False,
    ) -> None:
        for batch in self._batches(numbers, head):
            scale = batch.samples / batch.units  # a unit of several samples: its gradient is their sum
            scale = -scale if mean else math.sqrt(scale)  # ⟨G, δ⟩ = −Σ_{i ≥ k} v_i
            positions: list[tuple[Site, SideName, CacheKey]] = [
                (site, side, (site.id, side)) for site, side in self.sides
            ]
            positions += [(site, "in", (site.id, "shared")) for site in self.members_by_site.members]
            for key, one in self.workers.map_striped(functools.partial(self._projected, fold, batch), positions):
                if one is not None:
                    into.setdefault(key, []).append(one / scale)
            self.chains.project(fold, batch, scale, self.workers, mean=mean)
            del batch

    def _projected(
        self, fold: int, batch: Batch, place: tuple[Site, SideName, CacheKey]
    ) -> tuple[CacheKey, Array | None]:
        site, side, key = place
        basis = self.fitted[fold].get(key)
        if basis is None:
            return key, None
        each = [project(basis, z, e, batch.units) for z, e in batch.vectors(site, side)]
        return key, np.sum(each, axis=0)

    def _scored(
        self, site: Site, scheme: Scheme, found: Mapping[CacheKey, list[Array]], signed: Mapping[CacheKey, list[Array]]
    ) -> Scores:
        sides = scheme.sides(site.shape, site.groups)
        ranks = tuple(ranks_of(scheme, site, self.multiple))
        tail = _added(site, sides, ranks, found)
        rise, deviation = rises(tail)
        krons = {side: self.kron[site.id, side] for side in sides}
        errors = {side: kron / kron[0] if kron[0] > 0 else np.zeros_like(kron) for side, kron in krons.items()}
        weight, most = self.given.inventory.stored(site), largest(ranks)  # a view: schemes copy what they change
        if self.given.metric == "weights":
            plain = scheme.factor(weight, None, None, most, site.groups)
            errors = {sides[0]: np.array([plain.error((rank,)) for rank in range(most[0] + 1)])}
        return Scores(
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


def _source(key: CacheKey) -> CacheKey:
    """Return what of a sample a basis projects: that of siblings, the input that they share."""
    return (key[0], "in") if key[1] == "shared" else key


def _added(
    site: Site, sides: Sequence[SideName], ranks: Sequence[Ranks], found: Mapping[CacheKey, list[Array]]
) -> Array:
    """Return (samples, options) −⟨Γ_s, δ⟩: what the truncations of all sides do to first order in each other."""
    parts = (tails(np.concatenate(found[site.id, side]), [r[i] for r in ranks]) for i, side in enumerate(sides))
    return np.asarray(np.sum(list(parts), axis=0))
