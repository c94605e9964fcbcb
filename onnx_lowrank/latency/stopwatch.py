"""Every option of every site in milliseconds: a few ranks of each scheme measured, equal shapes only once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, median

import onnx

from onnx_lowrank.collection import ObservedPositions
from onnx_lowrank.cost import chain_cost
from onnx_lowrank.errors import ModelError, RuntimeProblem
from onnx_lowrank.latency.integer_edges import IntegerEdges
from onnx_lowrank.latency.interpolation import between, spread
from onnx_lowrank.latency.measure import Group, measure_group
from onnx_lowrank.latency.micro_model import Edges, Scene, Whole
from onnx_lowrank.latency.node_inputs import Captured, capture, has_subnormals, typical
from onnx_lowrank.latency.twins import Kind, with_twins
from onnx_lowrank.latency.whole_model_scale import scale_of
from onnx_lowrank.ops import Call
from onnx_lowrank.options import Options
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.passes.free_orders import FreeOrders
from onnx_lowrank.passes.placement import absorbed, placed, placed_together
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import Factors, Scheme, by_name, form_of, layout_of, ranks_of, shared_layout
from onnx_lowrank.types import DENSE, SHARED, Chain, Choice, Curve, Feed, Form, Option, Plan, Ranks, SharedInput, Site
from onnx_lowrank.types.number_formats import INT8_STATIC
from onnx_lowrank.weights.inventory import Inventory

NO_EDGES: Edges = (False, False)


@dataclass(frozen=True, slots=True)
class Timed:
    """Curves whose costs hold milliseconds, without the options that are no faster than the weight as it is.

    kept: site id -> the places that the options left had. original: milliseconds of the model on a typical sample.
    untimed: weight -> why it cannot be run alone; it stays dense, and its time counts as the model's other work.
    """

    curves: tuple[Curve, ...]
    kept: Mapping[str, tuple[int, ...]]
    original: float
    untimed: Mapping[str, str]


@dataclass(eq=False)
class Stopwatch:
    """Measures on the first request, on the sample of median size; keeps what it has measured.

    groups: what was measured of a call, or of the calls of a shared input, under what decides the time: its key. scale:
    the factor on all milliseconds of weights.
    """

    model: onnx.ModelProto
    inventory: Inventory
    observed: ObservedPositions
    feed: Feed
    options: Options
    captured: Captured
    original: Runner
    groups: dict[Hashable, Group | str] = field(default_factory=dict)
    scale: float | None = None

    @staticmethod
    def of(
        model: onnx.ModelProto,
        inventory: Inventory,
        observed: ObservedPositions,
        feeds: Sequence[Feed],
        options: Options,
    ) -> Stopwatch:
        """Run the model once and keep the inputs of its nodes; nothing is timed yet. Raises RuntimeProblem."""
        feed = typical(feeds)
        original = Runner(model, runtime=options.runtime, spin=True)
        captured = capture(model, inventory, feed, options.runtime)
        return Stopwatch(model, inventory, observed, feed, options, captured, original)

    def timed(self, curves: Sequence[Curve], factors: Mapping[tuple[str, str], Factors], progress: Progress) -> Timed:
        """Return the curves with milliseconds. Raises RuntimeProblem where the original itself fails.

        factors: (site id, scheme) -> those of every option; only their shapes matter. Interpolative options are joined
        by their plain twins: which is faster is for the clock to say.
        """
        sites = {site.id: site for site in self.inventory.sites}
        doubled = [with_twins(sites[curve.site], curve, self.observed.positions[curve.site]) for curve in curves]
        curves = [curve for curve, _ in doubled]
        with progress.step("timing weights", len(curves)) as advance:
            shares = []
            for curve in curves:
                shares.append(self._shares(sites[curve.site], curve, factors))
                advance(1)
        self._time_together(curves, shares, factors)
        known = [group.original for group in self.groups.values() if isinstance(group, Group)]
        original = 1e3 * median(known) if known else 0.0
        if self.scale is None:
            self.scale = self._scale(curves, shares, factors)
        unit = original * self.scale
        places, timed, untimed = {}, [], {}
        for (curve, origins), share in zip(doubled, shares, strict=True):
            if isinstance(share, str):
                untimed[sites[curve.site].weight] = share
                share = [0.0] + [1.0] * (len(curve.options) - 1)
            faster = [i for i, s in enumerate(share) if i == 0 or s < share[0]]
            places[curve.site] = tuple(origins[i] for i in faster)
            timed.append(replace(curve, options=tuple(_clocked(curve.options[i], share[i] * unit) for i in faster)))
        return Timed(tuple(timed), places, original, untimed)

    def _scale(
        self,
        curves: Sequence[Curve],
        shares: Sequence[list[float] | str],
        factors: Mapping[tuple[str, str], Factors],
    ) -> float:
        """Return what the model with every weight as its fastest chain saves, over what is predicted for it."""
        choices, predicted = [], 0.0
        for curve, share in zip(curves, shares, strict=True):
            if isinstance(share, str):
                continue
            least = min((i for i, o in enumerate(curve.options) if not o.shared_input), key=share.__getitem__)
            option, saved = curve.options[least], share[0] - share[least]
            if not option.dense:
                choices.append(Choice(curve.site, self.weights[curve.site], option))
                predicted += saved
        if not choices:
            return 1.0
        fastest = rewrite(self.model, self.inventory, Plan(tuple(choices)), factors)
        return scale_of(self.original, self.feed, fastest, predicted, self.options.runtime)

    @cached_property
    def free(self) -> FreeOrders:
        """Which channels may be in any order; of each weight by itself, as if it were the only one factored."""
        return FreeOrders(self.model)

    @property
    def weights(self) -> dict[str, str]:
        """Site id -> the weight's name."""
        return {site.id: site.weight for site in self.inventory.sites}

    def _shares(self, site: Site, curve: Curve, factors: Mapping[tuple[str, str], Factors]) -> list[float] | str:
        """Return the share (options,) of the original's time that every option takes, or why that is unknown."""
        alone = [option for option in curve.options if not (option.dense or option.shared_input)]
        kinds = sorted({(option.scheme, option.form.interpolative, option.form.storage) for option in alone})
        totals = [0.0] * len(curve.options)
        for call in self.inventory.calls[site.id]:
            ratios = [1.0] * len(curve.options)
            dense, key = [], self._key(site, call)
            for kind in (Kind(*each) for each in kinds):
                tried, own = self._tried(site, kind), self._factors(site, kind.scheme, factors)
                group = self._group((key, kind, self._edges([call], kind.storage)), [site], [call], [own], tried)
                if isinstance(group, str):
                    return group
                dense.append(group.dense)
                places = [i for i, o in enumerate(curve.options) if kind.of(o)]
                at = self._macs(site, [curve.options[i].form for i in places])
                for i, ratio in zip(places, between(self._macs(site, tried), group.ratios, at), strict=True):
                    ratios[i] = float(ratio)
            whole = fmean(dense) if dense else 0.0
            totals = [total + whole * ratio for total, ratio in zip(totals, ratios, strict=True)]
        return totals

    def _factors(self, site: Site, scheme: str, factors: Mapping[tuple[str, str], Factors]) -> Factors:
        """Return a site's factors by a scheme; where it stays whole, what gives the whole weight."""
        return Whole(self.inventory.whole(site)) if scheme == DENSE else factors[site.id, scheme]

    def ratios(self, site: Site, scheme: Scheme, factors: Factors) -> list[tuple[float, float]]:
        """Return (MACs, time over the node's) of a site's first call as every chain timed; none where it is not."""
        call, kind = self.inventory.calls[site.id][0], Kind(scheme.name, bool(site.identity))
        tried = self._tried(site, kind)
        group = self._group((self._key(site, call), kind, NO_EDGES), [site], [call], [factors], tried)
        return [] if isinstance(group, str) else list(zip(self._macs(site, tried), group.ratios, strict=True))

    def _time_together(
        self,
        curves: Sequence[Curve],
        shares: Sequence[list[float] | str],
        factors: Mapping[tuple[str, str], Factors],
    ) -> None:
        """Fill in the time of weights with a shared first factor; where it is not known, they are no faster together.

        All together are timed against all of them as they are; each gets its own part of what they took.
        """
        rows = {curve.site: (curve, share) for curve, share in zip(curves, shares, strict=True)}
        for shared in self.inventory.shared_inputs:
            members = [rows[member] for member in shared.members if member in rows]
            options = [option for option in members[0][0].options if option.shared_input] if members else []
            if not options:
                continue
            timed = all(not isinstance(share, str) for _, share in members)
            ratios: dict[Form, float] = {}
            for storage in dict.fromkeys(option.form.storage for option in options):
                forms = [option.form for option in options if option.form.storage == storage]
                found = self._ratios_together(shared, forms, factors) if timed else [1.0] * len(forms)
                ratios |= dict(zip(forms, found, strict=True))
            for curve, share in members:
                for place, option in enumerate(curve.options):
                    if option.shared_input and not isinstance(share, str):
                        share[place] = share[0] * ratios[option.form]

    def _ratios_together(
        self, shared: SharedInput, forms: Sequence[Form], factors: Mapping[tuple[str, str], Factors]
    ) -> list[float]:
        """Return the time of a shared input's weights with one first factor over the unchanged time, in these forms."""
        sites_by_id = {site.id: site for site in self.inventory.sites}
        sites = [sites_by_id[member] for member in shared.members]
        calls = [self.inventory.calls[member][0] for member in shared.members]
        macs = [self._macs_together(shared, form.ranks) for form in forms]
        tried = [forms[i] for i in spread(macs)]
        edges = self._edges(calls, forms[0].storage)
        key = (
            SHARED,
            forms[0].storage,
            edges,
            *(self._key(site, call) for site, call in zip(sites, calls, strict=True)),
        )
        group = self._group(key, sites, calls, [factors[member, SHARED] for member in shared.members], tried)
        if isinstance(group, str):
            return [1.0] * len(forms)
        known = [self._macs_together(shared, form.ranks) for form in tried]
        return [float(ratio) for ratio in between(known, group.ratios, macs)]

    def _macs_together(self, shared: SharedInput, ranks: Ranks) -> float:
        known = {site.id: site for site in self.inventory.sites}
        return sum(
            chain_cost(known[m], shared_layout(shared, m, ranks), self.observed.positions[m]).macs
            for m in shared.members
        )

    def _tried(self, site: Site, kind: Kind) -> list[Form]:
        """Return the forms of a kind that are timed, spread over the MACs."""
        if kind.scheme == DENSE:
            return [Form(storage=kind.storage)]
        ranks = ranks_of(by_name(kind.scheme), site, self.options.rank_multiple)
        forms = [replace(form_of(kind.scheme, rank, site), storage=kind.storage) for rank in ranks]
        forms = forms if kind.interpolative else [replace(form, interpolative=False) for form in forms]
        forms = [f for f in forms if f.interpolative == kind.interpolative] or forms
        return [forms[i] for i in spread(self._macs(site, forms))]

    def _macs(self, site: Site, forms: Sequence[Form]) -> list[float]:
        positions = self.observed.positions[site.id]
        return [chain_cost(site, layout_of(form, site), positions).macs for form in forms]

    def _group(
        self,
        key: Hashable,
        sites: Sequence[Site],
        calls: Sequence[Call],
        factors: Sequence[Factors],
        tried: Sequence[Form],
    ) -> Group | str:
        """Return the times of calls by a scheme: measured now, or already for calls of the same shapes."""
        if key not in self.groups:
            try:
                edges = self._edges(calls, tried[0].storage)
                scene = Scene.of(self.model, calls, [site.weight for site in sites], self.captured, edges)
                chains = [self._written(sites, factors, form) for form in tried]
                how, runtime = Form(factors[0].scheme, storage=tried[0].storage), self.options.runtime
                self.groups[key] = measure_group(self.original, self.feed, scene, chains, how, runtime)
            except (ModelError, RuntimeProblem) as error:
                self.groups[key] = str(error)
        return self.groups[key]

    def _edges(self, calls: Sequence[Call], storage: str) -> Edges:
        """Return whether calls in integers surely read floats, and give some; of other storage neither."""
        if storage != INT8_STATIC.name:
            return NO_EDGES
        return self.edges.reads_floats(calls[0].data), any(self.edges.gives_floats(call.output) for call in calls)

    @cached_property
    def edges(self) -> IntegerEdges:
        """Where convolutions that may compute in integers meet what does not."""
        able = [site for site in self.inventory.sites if INT8_STATIC in self.inventory.arithmetic(site)]
        calls = (call for site in able for call in self.inventory.calls[site.id])
        return IntegerEdges(self.model, {call.output: call.data for call in calls})

    def _written(self, sites: Sequence[Site], factors: Sequence[Factors], form: Form) -> list[Chain]:
        """Return the chains as they are written in a form."""
        chains, storage = [each.chain(form.ranks) for each in factors], self.inventory.sources[sites[0].id].storage
        if not form.interpolative:
            return chains
        if len(sites) > 1:
            return placed_together(chains, sites[0], storage)[0]
        free = self.free.sides(sites[0], self.inventory.calls[sites[0].id])
        return [absorbed(placed(chains[0], sites[0], storage, free))]

    def _key(self, site: Site, call: Call) -> Hashable:
        """Return what decides a call's time: operator, shapes, types, attributes; values only where subnormal."""
        arrays = [self.captured[name] for name in call.inputs if name in self.captured]
        shapes = tuple((array.shape, array.dtype.str) for array in arrays)
        attributes = tuple(sorted((name, repr(value)) for name, value in call.attributes.items()))
        own = site.id if any(has_subnormals(array) for array in arrays) else ""
        return call.op_type, call.slot, call.opset, shapes, attributes, site.shape, own


def _clocked(option: Option, milliseconds: float) -> Option:
    return replace(option, cost=replace(option.cost, milliseconds=milliseconds))
