"""The order of a basis's components where the labelled loss is the objective: what pays most for its rank comes first.

Removing component i changes the loss by −v'_si of sample s to first order and by ½ v_si² to second (docs/method.md,
section 3.7). In the order of the metric the first term would only say how many components to keep, never which: what
lowers the loss when it is removed stands in front of what does nothing, and stays with it. So all are put in the order
of both terms, the first one shrunk by its standard error. A fold's basis is ordered by the samples it was fitted on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_lowrank.collection.collected import Collected, Moments
from onnx_lowrank.collection.fit import Fitted
from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.collection.shared_bases import SharedFit
from onnx_lowrank.numerics.kronecker_metric import Basis, kronecker, project
from onnx_lowrank.numerics.linalg import Workers
from onnx_lowrank.numerics.rounding import rounded
from onnx_lowrank.types import Array, SideName, Site


def in_labelled_order(
    fits: Sequence[Fitted],
    collected: Collected,
    source: GradientSource,
    setup: CollectionSetup,
    workers: Workers,
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Fitted]:
    """Return what was fitted, in several metrics, with the components of every basis in the order of their worth.

    Worth to the labelled loss: all samples are run twice, with real targets and with sampled ones. The moments must
    still be in `collected`: the A ⊗ B scores held out are made again. Chains that project no side keep their order.
    """
    by_fit = [_places(fitted, source) for fitted in fits]
    places = [place for own in by_fit for place in own]
    objective = setup.objective
    for head, real in ((objective.labelled, True), (objective.sampled, False)):
        for fold, numbers in enumerate(collected.key.folds.parts):
            feeds = [setup.feeds[number] for number in numbers]
            for batch in source.run(feeds, numbers, head, batch=setup.batch, separate=setup.separate):
                workers.map_striped(functools.partial(_Place.add, batch=batch, fold=fold, real=real), places)
                progress(len(batch.numbers) * len(fits))
                del batch
    workers.each(_Place.order, places)
    return [
        _ordered(fitted, {place.keys[0]: place for place in own}, collected.moments)
        for fitted, own in zip(fits, by_fit, strict=True)
    ]


@dataclass(slots=True, eq=False)
class Worth:
    """Sums over samples of the change of the loss by removing each of r components, to first and to second order."""

    count: int = 0
    first: Array = field(default_factory=lambda: np.zeros(()))
    squares: Array = field(default_factory=lambda: np.zeros(()))
    others: int = 0
    second: Array = field(default_factory=lambda: np.zeros(()))

    def slopes(self, changes: Array) -> None:
        """Take the first-order change of every sample, (n, r)."""
        self.count += len(changes)
        self.first = self.first + changes.sum(0)
        self.squares = self.squares + (changes**2).sum(0)

    def rises(self, count: int, squares: Array) -> None:
        """Take v² of so many samples, summed: (r,)."""
        self.others += count
        self.second = self.second + squares

    def total(self) -> Array:
        """Return (r,) by how much the loss is expected to rise: the first order shrunk by its standard error, and ½ v².

        With fewer than two samples by the second order alone.
        """
        second = 0.5 * self.second / max(self.others, 1)
        if self.count < 2:
            return np.asarray(second)
        mean = self.first / self.count
        variance = np.maximum(self.squares - self.count * mean**2, 0.0) / (self.count - 1)
        error = np.sqrt(variance / self.count)
        return np.asarray(np.sign(mean) * np.maximum(np.abs(mean) - error, 0.0) + second)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """What has one basis: a side of a site, or the input that several weights share, whose changes add.

    bases: without every fold, and at last of all samples; onto: the same in float32, for samples; sums: of each. keys,
    sites: all weights.
    """

    keys: Sequence[CacheKey]
    sites: Sequence[Site]
    side: SideName
    bases: list[Basis]
    onto: Sequence[Basis]
    sums: list[Worth]

    def add(self, *, batch: GradientBatch, fold: int, real: bool) -> None:
        """Take a batch of the samples of one fold, which the basis without that fold does not see."""
        scale = batch.samples / batch.units  # a unit of several samples: its gradient is their sum
        for index, (basis, worth) in enumerate(zip(self.onto, self.sums, strict=True)):
            if index == fold:
                continue
            parts = [
                np.sum([project(basis, z, e, batch.units) for z, e in batch.vectors(site, self.side)], axis=0)
                for site in self.sites
            ]
            if real:
                worth.slopes(-np.sum(parts, axis=0) / scale)
            else:
                worth.rises(batch.units, np.sum([(part**2).sum(0) for part in parts], axis=0) / scale)

    def order(self) -> None:
        """Put the components of every basis in order, first what the loss rises most without."""
        for index, (basis, worth) in enumerate(zip(self.bases, self.sums, strict=True)):
            order = np.argsort(-rounded(worth.total()), kind="stable")
            self.bases[index] = replace(basis, read=basis.read[:, order], write=basis.write[:, order])


def _places(fitted: Fitted, source: GradientSource) -> list[_Place]:
    sites = {site.id: site for site in source.sites}
    places = [
        _place([key], [sites[key[0]]], key[1], [*(fold[key] for fold in fitted.folds), final])  # type: ignore[arg-type]
        for key, final in fitted.final.items()
    ]
    return places + [
        _place(fit.keys, [sites[site] for site, _ in fit.keys], "in", [*fit.basis.folds, fit.basis.final])
        for fit in fitted.shared
    ]


def _place(keys: Sequence[CacheKey], sites: Sequence[Site], side: SideName, bases: list[Basis]) -> _Place:
    return _Place(keys, sites, side, bases, [basis.single() for basis in bases], [Worth() for _ in bases])


def _ordered(fitted: Fitted, places: Mapping[CacheKey, _Place], moments: Sequence[Moments]) -> Fitted:
    """Return what was fitted with the places' bases, and the scores held out of them."""
    folds = tuple(
        {key: place.bases[fold] for place in places.values() for key in place.keys} for fold in range(len(fitted.folds))
    )
    final = {key: places[key].bases[-1] for key in fitted.final}
    krons = {key: _kron(places[key], key, moments) for key in fitted.final}
    shared = tuple(_shared(fit, places[fit.keys[0]], moments) for fit in fitted.shared)
    return replace(fitted, folds=folds, final=final, krons=krons, shared=shared)


def _shared(fit: SharedFit, place: _Place, moments: Sequence[Moments]) -> SharedFit:
    krons = tuple(_kron(place, (member, "in"), moments) for member, _ in fit.keys)
    basis = replace(fit.basis, folds=tuple(place.bases[:-1]), final=place.bases[-1], kron=np.sum(krons, axis=0))
    return replace(fit, basis=basis, krons=krons)


def _kron(place: _Place, key: CacheKey, moments: Sequence[Moments]) -> Array:
    """Return (r + 1,) the A ⊗ B score of every rank, held out, in the new order."""
    pairs = zip(place.bases[:-1], moments, strict=True)
    return np.asarray(np.mean([kronecker(basis, held[key]) for basis, held in pairs], axis=0))
