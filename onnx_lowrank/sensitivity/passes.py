"""Both passes over one group of sites: moments, bases, and every sample projected on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_lowrank import linalg
from onnx_lowrank.calibration.joint import Batch, JointFlow, sides_of
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
from onnx_lowrank.schemes import SCHEMES, Scheme
from onnx_lowrank.sensitivity.grams import LARGE, add_gram, mirror, weight_gram
from onnx_lowrank.sensitivity.kept import Kept, Key, Seen, projected, seen, size
from onnx_lowrank.sensitivity.scored import Joint, Scored
from onnx_lowrank.types import Array, Positions, Site

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

WIDE = 256
"""Sides with more dimensions than this are decomposed one at a time, fold by fold on as many threads."""


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
        self.kept = Kept(self._kept_bytes(), collection.options.memory)

    def _kept_bytes(self) -> float:
        """Return what is kept of all samples that are scored; a kernel's inputs may be more than its outputs."""
        each = 0.0
        for site, side in self.sides:
            at = (place.calls * math.prod(map(max, place.before, place.after)) for place in self._places(site))
            each += size(_width(site, side), sum(at))
        return each * sum(map(len, self.given.parts_scored()))

    def _places(self, site: Site) -> Sequence[Positions]:
        return self.given.observed.places[site.id]

    def run(self) -> None:
        """Put what is found into `joint`."""
        with linalg.Workers(self.given.options.threads) as self.workers:
            scored = self.given.parts_scored()
            moments = [self._moments(part, picks) for part, picks in zip(self.given.parts(), scored, strict=True)]
            if self.kept.open and not self.given.objective.signed:
                self.flow.close()  # nothing is run again
            linalg.trim()
            wide = [one for one in self.sides if _width(*one) > WIDE]  # one after the other, its folds at a time
            rest = [one for one in self.sides if _width(*one) <= WIDE]
            fits = [self._fit(*one, moments, self.workers.each) for one in wide]
            fits += self.workers.each(lambda one: self._fit(*one, moments, _in_turn), rest)
            for (site, side), fit in sorted(zip(wide + rest, fits, strict=True), key=lambda p: self.sides.index(p[0])):
                self._keep(site, side, fit)
            linalg.trim()
            self._score()

    def _batches(self, numbers: Sequence[int], head: Callable[..., Mapping[str, Array]]) -> Iterator[Batch]:
        feeds = [self.given.feeds[i] for i in numbers]
        return self.flow.run(feeds, numbers, head, batch=self.given.batch, separate=self.given.separate)

    def _moments(self, numbers: Sequence[int], scored: Sequence[int]) -> dict[Key, SideMoments]:
        """Pass 1: products of a batch in float32, their sums in float64. Of samples to be scored all is kept."""
        sums: dict[Key, SideMoments] = {}
        waiting: dict[Key, list[tuple[Array, Array, int]]] = {}
        held = 0
        for batch in self._batches(numbers, self.given.objective.sampled):
            held += self._gather(batch, waiting)
            if held > self.given.options.memory // WAITING:
                self._sum(waiting, sums)
                held = 0
            self._remember(batch, scored)
            self.progress(len(batch.numbers))
            del batch  # before the next one runs
        self._sum(waiting, sums)
        for one in sums.values():
            mirror(one.Z)
            mirror(one.E)
        return sums

    def _gather(self, batch: Batch, waiting: dict[Key, list[tuple[Array, Array, int]]]) -> int:
        """Add what moments need of a batch. Return its bytes."""
        held = 0
        for site, side in self.sides:
            every, rows = self._thinned(site, side)
            part = slice(batch.numbers[0] % rows, None, rows)
            for z, e in batch.vectors(site, side, every):
                if rows > 1 or every > 1:  # copies: a view would hold all the rows
                    z, e = z[part].copy("K"), e[part].copy("K")
                waiting.setdefault((site.id, side), []).append((z, e, batch.samples))
                held += z.nbytes + e.nbytes
        return held

    def _remember(self, batch: Batch, scored: Sequence[int]) -> None:
        picks = [i for i, number in enumerate(batch.numbers) if number in scored]
        if batch.units != len(batch.numbers):  # samples of several units, or that cannot be told apart
            self.kept.close()
        if not picks or not self.kept.open:
            return
        found = self.workers.dealt(lambda place: self._seen(batch, picks, *place), self.sides)
        for nth, index in enumerate(picks):
            each = {(site.id, side): one[nth] for (site, side), one in zip(self.sides, found, strict=True)}
            self.kept.put(batch.numbers[index], batch.samples / batch.units, each)

    def _seen(self, batch: Batch, picks: Sequence[int], site: Site, side: SideName) -> list[Seen]:
        pairs = [
            (z.reshape(batch.units, -1, z.shape[1]), e.reshape(batch.units, -1, e.shape[1]))
            for z, e in batch.vectors(site, side)
        ]
        return [seen([(z[i], e[i]) for z, e in pairs]) for i in picks]

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
        e = np.concatenate([part[1] for part in parts])
        scale = math.prod(self._thinned(site, side))
        if total is None:
            total = SideMoments(np.zeros((z.shape[1],) * 2), np.zeros((z.shape[1],) * 2), 0, 0)
        add_gram(total.Z, z, scale)
        add_gram(total.E, e, scale)
        positions, samples = total.positions + len(z) * scale, total.samples + sum(part[2] for part in parts)
        return SideMoments(total.Z, total.E, positions, samples)

    def _thinned(self, site: Site, side: SideName) -> tuple[int, int]:
        """Return of how many lines of an image, and then of how many rows, one is looked at.

        1 but where the samples have far more positions than moments need.
        """
        places = self._places(site)
        positions = len(self.given.feeds) * sum(place.calls * math.prod(place.after) for place in places)
        width = _width(site, side)
        lines = 1
        if all(place.after and place.before == place.after for place in places):
            lines = int(max(min(positions // (ENOUGH * width), MOST_LINES, places[0].after[0] // 2), 1))
        return lines, int(max(positions / lines // (PLENTY * width), 1))

    def _fit(
        self, site: Site, side: SideName, moments: Sequence[dict[Key, SideMoments]], each: Callable[..., list[Any]]
    ) -> _Fit | None:
        """Return the bases of every fold and of all samples; the shrinkage is the one that loses least where held out.

        The moments are taken out of `moments`, a mapping a fold. None: some fold has nothing to fit them to.
        """
        given = [one for part in moments if (one := part.pop((site.id, side), None)) is not None]
        if not given or len(given) < len(moments) or any(part.empty for part in given):
            return None
        total = given[0]
        for part in given[1:]:
            total = total + part
        gram = weight_gram(self.given.found.stored(site), side)
        rank = min(len(gram), math.prod(site.shape) // len(gram))

        def without(held: SideMoments) -> tuple[list[Basis], list[Array]]:
            rest = SideMoments(
                total.Z - held.Z, total.E - held.E, total.positions - held.positions, total.samples - held.samples
            )
            fold = bases(in_metric(rest, side, gram, self.given.metric), side, gram, rank, SHRINK)
            return [basis.single() for basis in fold], [kronecker(basis, held) for basis in fold]

        tried, losses = zip(*each(without, given), strict=True)
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
                if self.kept.open:
                    self._recall(fold, numbers, found)
                else:
                    self._project(fold, numbers, objective.sampled, found)
                self.first = self.first or sum(map(len, next(iter(found.values()), [])))
                if objective.signed:
                    self._project(fold, numbers, objective.labelled, signed, mean=True)
            self.progress(len(numbers))
        self.flow.close()
        self.kept.close()
        linalg.trim()
        jobs = []
        for site in self.flow.sites:
            for scheme in SCHEMES:
                key = (site.id, scheme.side(site.shape))
                ranks = scheme.ranks(site.shape, self.multiple)
                if ranks and key in found and site not in self.joint.dead:
                    jobs.append((site, scheme, found[key], signed.get(key)))
        large = [job for job in jobs if job[0].parameters > LARGE]  # one at a time: each takes several copies
        small = [job for job in jobs if job[0].parameters <= LARGE]
        scored = [self._scored(*job) for job in large] + self.workers.each(lambda job: self._scored(*job), small)
        for (site, scheme, *_), one in zip(large + small, scored, strict=True):
            self.joint.scored[site.id, scheme.name] = one

    def _recall(self, fold: int, numbers: Sequence[int], into: dict[Key, list[Array]]) -> None:
        """Project what pass 1 kept, instead of running it again."""
        for number in (number for number in numbers if number not in self.flow.broken):
            weight, given = self.kept.get(number)
            keys = [key for key in given if key in self.fitted[fold]]
            for key, one in zip(keys, self._projections(fold, keys, given), strict=True):
                into.setdefault(key, []).append(one / math.sqrt(weight))

    def _projections(self, fold: int, keys: Sequence[Key], given: Mapping[Key, Seen]) -> list[Array]:
        return self.workers.dealt(lambda key: projected(self.fitted[fold][key], given[key]), keys)

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
            del batch

    def _projected(self, fold: int, batch: Batch, place: tuple[Site, SideName]) -> tuple[Key, Array | None]:
        site, side = place
        basis = self.fitted[fold].get((site.id, side))
        if basis is None:
            return (site.id, side), None
        each = [project(basis, z, e, batch.units) for z, e in batch.vectors(site, side)]
        return (site.id, side), np.sum(each, axis=0)

    def _scored(self, site: Site, scheme: Scheme, found: list[Array], signed: list[Array] | None) -> Scored:
        key = (site.id, scheme.side(site.shape))
        options = scheme.ranks(site.shape, self.multiple)
        ranks = tuple(rank for (rank,) in options)
        tail = tails(np.concatenate(found), ranks)
        rise, deviation = rises(tail)
        kron = self.kron[key]
        relative = kron / kron[0] if kron[0] > 0 else np.zeros_like(kron)
        weight = self.given.found.weight(site)
        if self.given.metric == "weights":
            plain = scheme.factor(weight, None, None, options[-1])
            relative = np.array([plain.error((rank,)) for rank in range(options[-1][0] + 1)])
        factors = scheme.pair(weight, self.final[key], relative, options[-1])
        return Scored(
            factors=factors,
            ranks=ranks,
            tails=tail,
            slopes=None if signed is None else tails(np.concatenate(signed), ranks),
            rise=np.maximum.accumulate(rise[::-1])[::-1],
            deviation=deviation,
            kron=kron[list(ranks)],
            held=scheme.pair(weight, self.fitted[0][key], relative, options[-1]),
            first=self.first,
        )


def _width(site: Site, side: SideName) -> int:
    return site.shape[0 if side == "out" else 1]


def _in_turn(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]
