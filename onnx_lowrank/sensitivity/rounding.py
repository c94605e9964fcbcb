"""What number formats lose: every option of a curve once more in each, with the loss of truncation and rounding.

Rounding is one more change δ of a weight. Its inner product with the gradient is independent of what truncation does,
so losses add; that of the weight itself and of a few ranks of every scheme is measured (`collection.responses`), and
interpolated between. What is offered is what a budget of bytes may choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as product_of
from typing import TypeAlias

import numpy as np

from onnx_lowrank.collection.responses import groups, responses
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.collection.side_grams import bytes_of, side_grams
from onnx_lowrank.cost import format_bytes, unchanged_cost
from onnx_lowrank.numerics.kronecker_metric import rises
from onnx_lowrank.numerics.rounding import not_above
from onnx_lowrank.progress import Progress, Silent
from onnx_lowrank.schemes import Factors, layout_of, product, shared_layout
from onnx_lowrank.sensitivity.calibrated import CalibrationSetup, SensitivityState
from onnx_lowrank.sensitivity.decompose import shared_input_of
from onnx_lowrank.sensitivity.gradient_mode import collection_setup
from onnx_lowrank.sensitivity.kept_parts import parts_of_setup, place_of
from onnx_lowrank.sensitivity.substitution import stored_chain
from onnx_lowrank.store import remembered
from onnx_lowrank.types import (
    DENSE,
    OWN,
    SHARED,
    UNCHANGED,
    Array,
    Chain,
    Curve,
    FactorKey,
    Form,
    Layout,
    NumberFormat,
    Option,
    SharedInput,
    Site,
)
from onnx_lowrank.types.number_formats import EACH
from onnx_lowrank.weights.compensation import Compensation
from onnx_lowrank.weights.inventory import Inventory

MOMENTS, FEWEST = 256, 16
"""Samples whose moments rounding is made up for by, at most and at least; none whose losses are measured."""
MEMORY = 4
"""The share of the memory allowed that moments may take, and that rounded weights may: one in so many."""
RANKS = 4
"""Ranks of every scheme that are measured in each format, spread over all."""


PAIR = 2
"""Stages of a chain that may have a format each."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """What a format loses by rounding alone: loss, its standard error, and the relative error of the weight."""

    loss: float
    deviation: float
    error: float


Lost: TypeAlias = dict[tuple[str, str], list[tuple[Option, Rounded]]]
"""Of one weight: (scheme, storage) -> the options that were measured."""


def in_formats(
    setup: CalibrationSetup,
    state: SensitivityState,
    numbers: Sequence[NumberFormat],
    progress: Progress,
) -> SensitivityState:
    """Return a state whose curves have every option in every number format as well, without what another beats.

    Only sites that a gradient reaches and that can be stored so. Options of a shared input are all kept, as others take
    them, too. Terms between sites are left out.
    """
    collection = collection_setup(setup, "joint")
    place, names = place_of(setup.options, setup.objective), [number.name for number in numbers]

    def parts(*more: object) -> Sequence[object]:
        return *parts_of_setup(setup), *names, more

    compensation = remembered(
        place, progress, "moments for rounding", parts, lambda: _compensation(collection, numbers, progress)
    )
    inventory = replace(setup.inventory, compensation=compensation)
    work = _Work(inventory, state.calibrated.decomposed.factors, shared_input_of(setup.inventory))
    sites = {site.id: site for site in setup.inventory.sites}
    rigid = {curve.site: curve for curve in rigid_curves(setup)}
    curves = [*state.curves, *rigid.values()]
    reached = [curve for curve in curves if curve.site not in state.calibrated.fallback and curve.site in sites]
    offered: dict[str, list[NumberFormat]] = {}
    chosen: dict[str, list[tuple[str, Option]]] = {}
    for curve in reached:
        site = sites[curve.site]
        offered[curve.site] = [number for number in setup.inventory.formats(site) if number in numbers]
        every = [
            pick for option in measured_options(curve) for pick in work.measurable(site, option, offered[curve.site])
        ]
        if every:
            chosen[curve.site] = every
    batches = list(groups(collection, {site: len(picks) for site, picks in chosen.items()}))
    rounded: dict[str, Lost] = {}
    scored = sum(map(len, collection.folds.scored))
    with progress.step("rounding weights", max(len(batches), 1) * scored) as advance:
        for group in batches:
            picks = {site.id: chosen[site.id] for site in group}
            measure = partial(work.measured, picks, sites, collection, advance)
            rounded |= remembered(place, Silent(), "rounding weights", partial(parts, picks), measure)
    made = [
        work.extended(curve, sites[curve.site], offered[curve.site], rounded[curve.site])
        if curve.site in rounded
        else curve
        for curve in curves
        if curve.site in rounded or curve.site not in rigid
    ]
    calibrated = replace(state.calibrated, tails={})
    return replace(state, calibrated=calibrated, curves=tuple(made), compensation=compensation)


def compensation_of(setup: CalibrationSetup, numbers: Sequence[NumberFormat], progress: Progress) -> Compensation:
    """Return how weights in few bits are rounded, from samples whose losses are not measured."""
    return _compensation(collection_setup(setup, "joint"), numbers, progress)


def _compensation(setup: CollectionSetup, numbers: Sequence[NumberFormat], progress: Progress) -> Compensation:
    inventory, memory, chosen = setup.inventory, setup.options.memory, list[Site]()
    for site in sorted(inventory.sites, key=lambda site: site.parameters):
        need = bytes_of(site, looked_up=inventory.looks_up(site))
        offered = [number for number in inventory.formats(site) if number in numbers and number.compensated]
        if offered and need <= memory // MEMORY:
            memory -= MEMORY * need
            chosen.append(site)
    scored = {number for fold in setup.folds.scored for number in fold}
    others = [number for number in range(len(setup.samples)) if number not in scored]
    if not chosen or len(others) < FEWEST:
        return Compensation({}, 0)
    places = np.unique(np.linspace(0, len(others) - 1, min(len(others), MOMENTS)).round().astype(int))
    ordered = [site for site in inventory.sites if site in chosen]
    with progress.step("moments for rounding", len(places)) as advance:
        grams = side_grams(setup, ordered, [others[place] for place in places], advance)
    return Compensation(grams, setup.options.memory // MEMORY)


def rigid_curves(setup: CalibrationSetup) -> Iterator[Curve]:
    """Yield the curves of what no scheme factors: the weight as it is."""
    for site in setup.inventory.sites:
        if site.rigid:
            yield Curve(site.id, (Option(UNCHANGED, unchanged_cost(site, setup.observed.positions[site.id])),))


def measured_options(curve: Curve) -> Iterator[Option]:
    """Yield the options of which rounding is measured: the weight itself, and some ranks of every scheme."""
    yield curve.dense
    for scheme in dict.fromkeys(option.scheme for option in curve.options[1:]):
        own = [option for option in curve.options[1:] if option.scheme == scheme]
        places = np.unique(np.linspace(0, len(own) - 1, min(len(own), RANKS)).round().astype(int))
        yield from (own[place] for place in places)


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    inventory: Inventory
    factors: Mapping[FactorKey, Factors]
    shared: Mapping[str, SharedInput]

    def measurable(self, site: Site, option: Option, offered: Sequence[NumberFormat]) -> Iterator[tuple[str, Option]]:
        """Yield what is measured of an option: each stage of a pair by itself in each format, of other chains all.

        What the two stages of a pair lose does not correlate, so every mixture of formats is a sum of two.
        """
        for number in offered:
            if self.pair(site, option):
                yield from ((storage, option) for storage in (f"{number.name}{EACH}{OWN}", f"{OWN}{EACH}{number.name}"))
            elif self.fits(site, option, [number]):
                yield number.name, option

    def pair(self, site: Site, option: Option) -> bool:
        """Return whether an option has two stages, and may have a format for each."""
        return option.scheme not in (DENSE, SHARED) and len(self.layout(site, option)) == PAIR

    def measured(
        self,
        chosen: Mapping[str, Sequence[tuple[str, Option]]],
        sites: Mapping[str, Site],
        collection: CollectionSetup,
        advance: Callable[[int], None],
    ) -> dict[str, Lost]:
        """Return site id -> what was measured of a group of sites."""
        changes = {site: list(self._changes(sites[site], picks)) for site, picks in chosen.items()}
        found: dict[str, Lost] = {}
        for site, rows in responses(collection, changes, advance).items():
            loss, deviation = rises(rows)
            whole = float(np.square(self.inventory.stored(sites[site]), dtype=np.float64).sum())
            known: Lost = {}
            for place, (storage, option) in enumerate(chosen[site]):
                error = float(np.square(changes[site][place], dtype=np.float64).sum()) / whole if whole else 0.0
                lost = Rounded(float(loss[place]), float(deviation[place]), error)
                known.setdefault((option.scheme, storage), []).append((option, lost))
            if np.isfinite(rows).all():
                found[site] = known
        return found

    def _changes(self, site: Site, picks: Sequence[tuple[str, Option]]) -> Iterator[Array]:
        """Yield what rounding alone changes, float32. Where an identity goes is the same in all formats."""
        known: dict[tuple[Form, bool], tuple[Chain, Array]] = {}
        for storage, option in picks:
            shared = bool(option.shared_input)
            if (option.form, shared) not in known:
                made = replace(option, form=replace(option.form, storage=storage))
                factors = self.factors.get((site.id, option.scheme))
                chain = stored_chain(self.inventory, site, factors, made)
                known[option.form, shared] = chain, product(chain)
            chain, exact = known[option.form, shared]
            yield np.asarray(product(self.inventory.seen(site, chain, storage, shared=shared)) - exact, np.float32)

    def extended(self, curve: Curve, site: Site, offered: Sequence[NumberFormat], known: Lost) -> Curve:
        """Return the curve with its options in the formats as well."""
        more = []
        for option in curve.options:
            mixtures = product_of(offered, repeat=PAIR if self.pair(site, option) else 1)
            more += [made for each in mixtures if (made := self._in_formats(site, option, each, known)) is not None]
        options = [*curve.options[1:], *more]
        if site.fixed is not None:  # before what is not allowed beats what is
            options = [option for option in options if site.fixed.stores(option.form.storage)]
        apart = [option for option in options if option.shared_input]
        best = undominated([curve.dense, *(option for option in options if not option.shared_input)])
        return replace(curve, options=(curve.dense, *(o for o in best if not o.dense), *apart))

    def fits(self, site: Site, option: Option, numbers: Sequence[NumberFormat]) -> bool:
        """Return whether an option can be stored in formats, with an identity and without: as it is looked at first.

        numbers: of every stage, or one for all. What weights with a shared first factor take, all of them have to be
        able to take.
        """
        if option.scheme == SHARED:
            shared = self.shared[site.id]
            return all(numbers[0].fits(shared_layout(shared, member, option.ranks)) for member in shared.members)
        looked_up = self.inventory.looks_up(site)
        for form in (option.form, replace(option.form, interpolative=False)):
            layout = layout_of(form, site)
            each = numbers if len(numbers) > 1 else [*numbers] * len(layout)
            if not all(
                number.takes(shape) or (looked_up and place == 0)
                for place, ((shape, _), number) in enumerate(zip(layout, each, strict=True))
            ):
                return False
        return True

    def layout(self, site: Site, option: Option) -> Layout:
        """Return the shapes that an option stores."""
        if option.scheme == SHARED:
            return shared_layout(self.shared[site.id], site.id, option.ranks)
        return layout_of(option.form, site)

    def _in_formats(self, site: Site, option: Option, numbers: Sequence[NumberFormat], known: Lost) -> Option | None:
        """Return an option with its stages in formats, or all of them in one; None where that is not known."""
        names, layout = [number.name for number in numbers], self.layout(site, option)
        storages = [f"{names[0]}{EACH}{OWN}", f"{OWN}{EACH}{names[1]}"] if len(names) == PAIR else names
        measured = [known.get((option.scheme, storage)) for storage in storages]
        if not self.fits(site, option, numbers) or not all(measured):
            return None
        lost = [between(option, each) for each in measured if each]
        stored = format_bytes(layout, *numbers, looked_up=self.inventory.looks_up(site))
        return replace(
            option,
            form=replace(option.form, storage=names[0] if len({*names}) == 1 else EACH.join(names)),
            cost=replace(option.cost, bytes=stored),
            loss=option.loss + math.fsum(each.loss for each in lost),
            deviation=math.hypot(option.deviation, *(each.deviation for each in lost)),
            error=min(option.error + math.fsum(each.error for each in lost), 1.0),
        )


def between(option: Option, known: Sequence[tuple[Option, Rounded]]) -> Rounded:
    """Return what rounding an option loses, by the options of its scheme that were measured, on their parameters."""
    ordered = sorted(known, key=lambda pair: pair[0].cost.parameters)
    sizes = [other.cost.parameters for other, _ in ordered]

    def at(values: Sequence[float]) -> float:
        return float(np.interp(option.cost.parameters, sizes, values))

    return Rounded(
        at([each.loss for _, each in ordered]),
        at([each.deviation for _, each in ordered]),
        at([each.error for _, each in ordered]),
    )


def undominated(options: Sequence[Option]) -> list[Option]:
    """Return the options that no other beats in bytes and loss at once, by falling bytes."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost.bytes, o.loss, o.cost.macs)):
        if not kept or not not_above(kept[-1].loss, option.loss):
            kept.append(option)
    return kept[::-1]
