"""What narrower places lose, and every rank of their weights, on one collection: the options of part "width"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any
from unittest import mock

import numpy as np
import scipy.linalg

from benchmarks import workbench as wb
from benchmarks.width_places import Form, Place, Side, places
from benchmarks.width_units import Array, Projection, Seen, crude, greedy, kept, projected, refitted, selected, shrunk
from benchmarks.workbench import Workbench

HEADS = {"minilm": 12, "vit": 4}
CALIBRATION = 1000
"""Calibration samples, at most."""
MEMORY = 6 * 2**30
CHOICE = 1e-2
"""Share of the mean eigenvalue that is added to both moments where units are chosen."""
RIDGES = (1e-3, 1e-2, 1e-1)
"""The same of C where the next map is refitted: the one that loses least where held out."""
TRIED = (0.97, 0.93, 0.88, 0.82, 0.75, 0.66, 0.56, 0.45, 0.33, 0.2)
"""Kept shares at which the loss of wide places is reckoned; between them its logarithm is linear."""
SELECTIONS = ("crude", "greedy")


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One form of a place: how many units are kept, what is lost (predicted), and the projections of a count."""

    form: Form
    counts: tuple[int, ...]
    loss: Array
    ridge: float
    make: Callable[[int], list[Projection]]


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """scores: (site, scheme) -> Scores of every rank. curves: selection -> the forms of every place."""

    session: Any
    places: tuple[Place, ...]
    sites: Mapping[str, Any]
    scores: Mapping[str, Any]
    curves: Mapping[str, tuple[tuple[Curve, ...], ...]]
    positions: Mapping[str, float]

    @property
    def has_units(self) -> bool:
        """Whether there are places at which any unit may go."""
        return any(form.name == "units" for place in self.places for form in place.forms)

    def weight(self, site: str) -> Array:
        return np.asarray(self.session.inventory.weight(self.sites[site]))

    def narrowed(self, place: int, curve: Curve, count: int) -> dict[str, Array]:
        """Return site -> the weight that stands for a narrower place at its old width."""
        return {
            side.site: projected(self.weight(side.site), projection, side.side)
            for side, projection in zip(curve.form.sides, curve.make(count), strict=True)
        }


def collect(bench: Workbench) -> Collection:
    """Collect the weights around units once; one more side where the units are no side of a scheme."""
    session = bench.opened(memory=MEMORY)
    whole = session.inventory.sharing(False)
    found = tuple(places(session.loaded.model, whole.sites, whole.calls, HEADS.get(bench.entry.name, 0)))
    wanted = {weight for place in found for weight in place.weights}
    inventory = replace(whole, sites=tuple(site for site in whole.sites if site.id in wanted))
    split = replace(
        session.split, calibration=wb.some(bench.samples(bench.entry.calibration), CALIBRATION), screening=None
    )
    session = session.renewed(inventory=inventory, split=split)
    sides = {
        (side.site, side.side) for place in found for form in place.forms for side in form.sides
    }  # fmt: skip
    setup = wb.collection_setup(
        wb.calibration_setup(session.loaded, split.calibration, inventory, session.options, bench.objective), "joint"
    )
    with _every_rank(sides), wb.Workers(session.options.runtime.threads or 1) as workers:
        (group,) = setup.groups()
        source = setup.source(group)
        done = wb.collect(setup, source, workers)
        moments = [{key: part[key] for key in sides} for part in done.moments]
        seen = _seen(done, sides, {site.id: site for site in inventory.sites})
        sites = setup.group(source.sites)
        fitted = wb.fit_group(done, sites, workers, release=True)
        (projected,) = wb.project(done, [fitted], source, setup, workers)
        scored = wb.score_group(projected, fitted, sites, workers)
        done.cache.close()
    by_id = {site.id: site for site in inventory.sites}
    make = {
        selection: tuple(
            tuple(_curve(form, selection, by_id, inventory, moments, seen) for form in place.forms) for place in found
        )
        for selection in SELECTIONS
    }
    positions = {
        site: sum(p.calls * float(np.prod(p.after)) for p in where) for site, where in setup.observed.positions.items()
    }
    return Collection(session, found, by_id, {site: own for (site, _), own in scored.items()}, make, positions)


@contextmanager
def _every_rank(sides: set[tuple[str, str]]) -> Iterator[None]:
    """Offer every rank below the full one, of pairs alone, and look at the sides where units are, too."""
    own = wb.looked_at

    def looked_at(inventory: Any, multiple: int = 1) -> dict[str, tuple[str, ...]]:
        return {
            key: (*names, *(s for s in ("out", "in") if (key, s) in sides and s not in names))
            for key, names in own(inventory, multiple).items()
        }

    with ExitStack() as stack:
        stack.enter_context(wb.every_rank())
        stack.enter_context(mock.patch("onnx_lowrank.schemes.offered.SCHEMES", (wb.Svd(), wb.KernelFirst())))
        for module in ("site_group", "site_tensors", "setup"):
            stack.enter_context(mock.patch(f"onnx_lowrank.collection.{module}.looked_at", looked_at))
        yield


def _seen(done: Any, sides: set[tuple[str, str]], by_id: Mapping[str, Any]) -> list[dict[tuple[str, str], Seen]]:
    """Return fold -> side -> what its scored samples saw."""
    folds = []
    for numbers in done.key.scored:
        there: dict[tuple[str, str], list[Any]] = {key: [] for key in sides}
        for number in (n for n in numbers if n not in done.broken):
            weight, sample = done.cache.get(number)
            for key, rows in there.items():
                rows.append((weight, sample[key]))
        folds.append({key: Seen.of(rows, by_id[key[0]].groups) for key, rows in there.items()})
    return folds


def _curve(
    form: Form, selection: str, by_id: Mapping[str, Any], inventory: Any, moments: Sequence[Any], seen: Sequence[Any]
) -> Curve:
    """Return the loss of every count: chosen and refitted without a fold, scored on it."""
    if form.of > 64:
        counts = tuple(dict.fromkeys(max(round(s * form.of / form.step), 1) * form.step for s in TRIED))
    else:
        counts = tuple(range(form.of - 1, 0, -1))
    keys = [(side.site, side.side) for side in form.sides]
    total = {key: reduce(add, (part[key] for part in moments)) for key in keys}
    chosen = []
    for fold in range(len(moments)):
        rest = {key: total[key] - moments[fold][key] for key in keys}
        sides = zip(form.sides, keys, strict=True)
        chosen.append([_Chosen.of(side, rest[key], selection, by_id, inventory) for side, key in sides])

    def loss_at(count: int, ridge: float) -> float:
        tails = [
            sum(there[key].tails(own.projection(count, ridge)) for own, key in zip(sides, keys, strict=True))
            for sides, there in zip(chosen, seen, strict=True)
        ]
        return 0.5 * float(np.mean(np.concatenate(tails) ** 2))

    looks = (counts[len(counts) // 4], counts[len(counts) // 2])
    ridge = min(RIDGES, key=lambda r: sum(np.log(loss_at(count, r) + 1e-30) for count in looks))
    best = np.array([loss_at(count, ridge) for count in counts])
    final = [
        _Chosen.of(side, total[key], selection, by_id, inventory) for side, key in zip(form.sides, keys, strict=True)
    ]
    best = np.maximum.accumulate(best)  # counts fall
    if form.of > 64:
        every = tuple(range(form.of - form.step, 0, -form.step))
        lowest = min(counts)
        every = tuple(c for c in every if c >= lowest)
        xs, ys = [form.of - c for c in counts], np.log(best + 1e-30)
        first = np.log(best[0] + 1e-30)
        loss = np.exp(np.interp([form.of - c for c in every], xs, ys, left=first))
        return Curve(form, every, loss, ridge, lambda count: [own.projection(count, ridge) for own in final])
    return Curve(form, counts, best, ridge, lambda count: [own.projection(count, ridge) for own in final])


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """Units of one side in the order in which they go (of every group), or the bases of heads."""

    side: Side
    C: Array
    orders: tuple[Any, ...]
    groups: int

    @staticmethod
    def of(side: Side, moments: Any, selection: str, by_id: Mapping[str, Any], inventory: Any) -> _Chosen:
        groups = by_id[side.site].groups
        C = moments.Z / max(moments.positions, 1)
        M = moments.E / max(moments.positions, 1)
        C, M = (A if A.ndim == 3 else A[None] for A in (C, M))
        if side.head:
            return _Chosen(side, C, (_head_basis(side, moments, by_id, inventory),), groups)
        blocks = 0 if groups > 1 else side.blocks
        pick = (
            crude
            if selection == "crude" and not side.blocks
            else lambda a, b: greedy(a, b, blocks=blocks, whole=side.whole)
        )
        orders = tuple(pick(shrunk(c, CHOICE), shrunk(m, CHOICE)) for c, m in zip(C, M, strict=True))
        return _Chosen(side, C, orders, groups)

    def projection(self, count: int, ridge: float) -> Projection:
        reads, writes = [], []
        for C, order in zip(self.C, self.orders, strict=True):
            d, C_ = len(C), shrunk(C, ridge)
            if self.side.head:
                read, write = (scipy.linalg.block_diag(*(part[:, :count] for part in parts)) for parts in order)
                write = refitted(C_, read) if self.side.side == "in" else write
            else:
                per_block = self.groups == 1 and self.side.blocks
                number = (
                    count * (d // self.side.blocks if self.side.whole else self.side.blocks) if per_block else count
                )
                read, write = selected(C_, kept(order, number, d))
            reads.append(read)
            writes.append(write)
        return Projection(np.stack(reads), np.stack(writes))


def _head_basis(side: Side, moments: Any, by_id: Mapping[str, Any], inventory: Any) -> tuple[Array, Array]:
    """Return read and write of every head (heads, d, d): the best basis in the metric of its own block."""
    d = len(moments.Z)
    width = d // side.blocks
    cut = [slice(h * width, (h + 1) * width) for h in range(side.blocks)]
    weight = np.asarray(inventory.weight(by_id[side.site]))
    matrix = weight.reshape(len(weight), -1)
    gram = matrix @ matrix.T if side.side == "out" else matrix.T @ matrix
    blocks = replace(moments, Z=np.stack([moments.Z[s, s] for s in cut]), E=np.stack([moments.E[s, s] for s in cut]))
    (basis,) = wb.bases(blocks, side.side, np.stack([gram[s, s] for s in cut]), width, wb.SHRINK[:1])
    return basis.blocks()
