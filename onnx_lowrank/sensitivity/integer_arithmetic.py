"""What arithmetic in integers loses: weights of 8 bits, and what they are multiplied by rounded to 8 bits as well.

A chain in integers runs beside the same one as it is, on what the samples give it (`collection.responses`): what comes
out differs by what rounding of weights and activations does together, and its product with the gradient is the loss.
The range of what a chain reads is that of the samples where it is to be fixed, else that of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_lowrank.collection.responses import InIntegers, groups, responses
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.cost import chain_cost, format_bytes
from onnx_lowrank.numerics.kronecker_metric import rises
from onnx_lowrank.passes.activation_ranges import ranges
from onnx_lowrank.progress import Advance, Progress, Silent
from onnx_lowrank.schemes import layout_of, product, shared_layout
from onnx_lowrank.sensitivity.calibrated import CalibrationSetup, SensitivityState
from onnx_lowrank.sensitivity.decompose import shared_input_of
from onnx_lowrank.sensitivity.gradient_mode import collection_setup
from onnx_lowrank.sensitivity.kept_parts import parts_of_setup, place_of
from onnx_lowrank.sensitivity.rounding import Rounded, between, measured_options, rigid_curves
from onnx_lowrank.sensitivity.substitution import stored_chain
from onnx_lowrank.store import remembered
from onnx_lowrank.types import SHARED, Array, Curve, Form, Layout, NumberFormat, Option, Site

HELD = 4
"""Numbers that are held for each of a weight's, at most, while one of its forms is measured."""


def with_arithmetic(
    setup: CalibrationSetup, state: SensitivityState, allowed: Sequence[NumberFormat], progress: Progress
) -> SensitivityState:
    """Return a state whose curves have, besides what they have, plain chains and weights that integers compute.

    Only sites that a gradient reaches, with one of the formats `allowed`. Terms between sites are left out.
    """
    collection = collection_setup(setup, "joint")
    work = _Work(setup, state)
    known = {curve.site for curve in state.curves}
    curves = [*state.curves, *(curve for curve in rigid_curves(setup) if curve.site not in known)]
    offered = {curve.site: list(work.offered(curve, allowed)) for curve in curves}
    chosen = {site: list(measured_options(Curve(site, tuple(o)))) for site, o in offered.items() if o}
    spans = _spans(setup, [work.sites[site] for site in chosen])
    batches = list(groups(collection, {site: HELD * len(options) for site, options in chosen.items()}))
    measured: dict[str, list[tuple[Option, Rounded]]] = {}
    scored = sum(map(len, collection.folds.scored))
    place = place_of(setup.options, setup.objective)

    def parts(picks: Mapping[str, Sequence[Option]]) -> Sequence[object]:
        return *parts_of_setup(setup), picks, spans

    with progress.step("integer arithmetic", max(len(batches), 1) * scored) as advance:
        for group in batches:
            picks = {site.id: chosen[site.id] for site in group}
            measure = partial(work.measured, picks, spans, collection, advance)
            measured |= remembered(place, Silent(), "integer arithmetic", partial(parts, picks), measure)
    made = [
        _extended(curve, _complete(offered[curve.site], measured.keys()), measured[curve.site])
        if curve.site in measured
        else curve
        for curve in curves
        if curve.site in measured or curve.site in known
    ]
    return replace(state, calibrated=replace(state.calibrated, tails={}), curves=tuple(made))


def _spans(setup: CalibrationSetup, sites: Sequence[Site]) -> dict[str, float]:
    """Return site id -> the width of the range of what its operators read, where that is fixed by samples."""
    read = {site.id: [c.data for c in setup.inventory.calls[site.id] if c.op.integers(c) == "static"] for site in sites}
    tensors = list(dict.fromkeys(name for names in read.values() for name in names))
    if not tensors:
        return {}
    found = ranges(setup.opened.model, tensors, setup.samples.feeds, setup.options.runtime)
    width = {name: high - low for name, (low, high) in found.items()}
    return {site: max(width.get(name, 0.0) for name in names) for site, names in read.items() if names}


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    setup: CalibrationSetup
    state: SensitivityState

    @property
    def sites(self) -> Mapping[str, Site]:
        return {site.id: site for site in self.setup.inventory.sites}

    def offered(self, curve: Curve, allowed: Sequence[NumberFormat]) -> Iterator[Option]:
        """Yield the weight as it is and every plain option, in integers."""
        calibrated, inventory = self.state.calibrated, self.setup.inventory
        if curve.site in calibrated.fallback or curve.site not in self.sites:
            return
        site = self.sites[curve.site]
        for number in (number for number in inventory.arithmetic(site) if number in allowed):
            for option in curve.options:
                form = replace(option.form, interpolative=False, storage=number.name)
                layout = self._layout(site, form)
                cost = chain_cost(site, layout, calibrated.observed.positions[site.id])
                if option.dense or option.shared_input or cost.parameters < site.parameters:
                    yield replace(option, form=form, cost=replace(cost, bytes=format_bytes(layout, number)))

    def measured(
        self,
        picks: Mapping[str, Sequence[Option]],
        spans: Mapping[str, float],
        collection: CollectionSetup,
        advance: Advance,
    ) -> dict[str, list[tuple[Option, Rounded]]]:
        """Return site id -> what was measured of a group of sites; none of those that are not finite."""
        found = {}
        changes = {site: [self.change(self.sites[site], option, spans) for option in picks[site]] for site in picks}
        for site, rows in responses(collection, changes, advance).items():
            if np.isfinite(rows).all():
                found[site] = list(zip(picks[site], self.lost(site, changes[site], rows), strict=True))
        return found

    def _layout(self, site: Site, form: Form) -> Layout:
        """Return what a plain form stores of a site."""
        if form.scheme != SHARED:
            return layout_of(form, site)
        shared = shared_input_of(self.setup.inventory)[site.id]
        return shared_layout(replace(shared, identity=()), site.id, form.ranks)

    def change(self, site: Site, option: Option, spans: Mapping[str, float]) -> InIntegers:
        """Return what a chain in integers changes."""
        factors = self.state.calibrated.decomposed.factors
        exact = stored_chain(self.setup.inventory, site, factors.get((site.id, option.scheme)), option)
        storage = self.setup.inventory.storage(site, option.form.storage)
        return InIntegers(storage.settled(exact), storage.seen(exact), spans.get(site.id, 0.0))

    def lost(self, site: str, changes: Sequence[InIntegers], rows: Array) -> Iterator[Rounded]:
        """Yield what each change loses, from −⟨Γ_s, δ⟩ (samples, changes); its error is that of the weight."""
        loss, deviation = rises(rows)
        whole = float(np.square(self.setup.inventory.stored(self.sites[site]), dtype=np.float64).sum())
        for place, change in enumerate(changes):
            off = float(np.square(product(change.stored) - product(change.exact), dtype=np.float64).sum())
            yield Rounded(float(loss[place]), float(deviation[place]), off / whole if whole else 0.0)


def _complete(offered: Sequence[Option], measured: Set[str]) -> list[Option]:
    """Return the options without those that other weights, of which nothing is known, would have to take as well."""
    return [option for option in offered if measured >= set(option.shared_input)]


def _extended(curve: Curve, offered: Sequence[Option], known: Sequence[tuple[Option, Rounded]]) -> Curve:
    """Return the curve with options in integers behind its own."""
    more = []
    for option in offered:
        lost = between(option, [(other, each) for other, each in known if other.scheme == option.scheme])
        more.append(
            replace(
                option,
                loss=option.loss + lost.loss,
                deviation=math.hypot(option.deviation, lost.deviation),
                error=min(option.error + lost.error, 1.0),
            )
        )
    return replace(curve, options=(*curve.options, *more))
