"""A session: one model, one set of samples, collected once; any number of goals, and the whole curve, from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import onnx

from onnx_lowrank.goals import Gate, Resource
from onnx_lowrank.latency import Stopwatch
from onnx_lowrank.metrics import Metric
from onnx_lowrank.metrics.divergence import DivergenceKind
from onnx_lowrank.options import Options, Then
from onnx_lowrank.pipeline.held_back_judges import labelled_judge, screening_judge
from onnx_lowrank.pipeline.judges import judges_of, kept_outputs, make_judge
from onnx_lowrank.pipeline.kept import Kept, forms_of
from onnx_lowrank.pipeline.label_fits import LabelFits
from onnx_lowrank.pipeline.loaded_model import (
    DataSources,
    LoadedModel,
    choose,
    first_outputs,
    read_samples,
    refuse_impossible,
)
from onnx_lowrank.pipeline.notes import inventory_notes, loading_notes, narrow_notes, untimed_note
from onnx_lowrank.pipeline.number_formats import in_arithmetic, with_formats
from onnx_lowrank.pipeline.overrides import imposed, with_overrides
from onnx_lowrank.pipeline.post_quantize import PostQuantizer
from onnx_lowrank.pipeline.refit_check import repaired
from onnx_lowrank.pipeline.session_values import Checked, Formatted, Judges, Priced, Repaired
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.plan import Problem, signed
from onnx_lowrank.progress import Clock, Ending, Progress, steps_of
from onnx_lowrank.results.parts import Trial
from onnx_lowrank.samples import Samples, Split
from onnx_lowrank.samples.decoder import cache_note, counting
from onnx_lowrank.schemes import Factors
from onnx_lowrank.sensitivity.calibrated import Calibrated, SensitivityState
from onnx_lowrank.sensitivity.continuation import go_on
from onnx_lowrank.sensitivity.measure import calibrate, calibrate_together, kind_of, probe
from onnx_lowrank.store import spilled
from onnx_lowrank.types import Choice, Curve, FactorKey, Plan
from onnx_lowrank.types.checks import check_type
from onnx_lowrank.types.words import counted
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.determinism import refuse_random, varies
from onnx_lowrank.validation.metric_check import check_metric
from onnx_lowrank.validation.reference import Reference
from onnx_lowrank.validation.samples_needed import too_few
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory, RangeSamples

T = TypeVar("T")
REFITS = 16
"""Refitted factors of a plan that take more than this part of the memory allowed lie in a file."""
COLLECTED = ("state", "divergence", "metric")
"""What does not hang on the validation samples."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Session:
    """What is measured once and used for every goal: each value is computed on first use, whatever the order.

    trials: (choices, gate) -> what was measured. told: step -> how many of its results the cache had. Make one with
    `Session.of`. Raises LowRankError (ModelError, DataError, MetricError, GoalError, RuntimeProblem).

    >>> from onnx_lowrank import DataSources, Options, Session
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> sets = demo_samples()
    >>> samples = DataSources(data=sets["calibration"], validation=sets["validation"])
    >>> session = Session.of(MODEL, samples, Options(include=("7.*",)))  # for many goals
    >>> [(site.weight, site.shape) for site in session.inventory.sites]
    [('7.weight', (320, 1152))]
    >>> len(session.split.calibration), len(session.split.validation)
    (448, 2000)
    """

    loaded: LoadedModel
    split: Split
    inventory: Inventory
    options: Options
    clock: Clock
    random: bool
    quantizer: PostQuantizer
    label_fits: LabelFits
    trials: dict[tuple[tuple[Choice, ...], Gate], Trial] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        weights, split = counted(len(self.inventory.sites), "weight"), self.split
        samples = f"{len(split.calibration)} calibration and {counted(len(split.validation), 'validation sample')}"
        return f"<Session: {self.loaded.source or 'a model in memory'}; {weights}; {samples}>"

    @staticmethod
    def of(
        model: onnx.ModelProto | Path | str,
        samples: DataSources | object,
        options: Options | None = None,
        *,
        progress: Progress | None = None,
    ) -> Session:
        """Read model and samples and find the sites; nothing is run yet.

        >>> from onnx_lowrank import Options, Session
        >>> from onnx_lowrank.demo import MODEL, demo_samples
        >>> session = Session.of(MODEL, demo_samples()["calibration"], Options(rank_multiple=16))
        >>> len(session.inventory.sites)
        5
        """
        options = options or Options()
        check_type("options", options, Options)
        clock = Clock(steps_of(progress), Ending(options.time_budget))
        sources = samples if isinstance(samples, DataSources) else DataSources(data=samples)  # type: ignore[arg-type]
        loaded = LoadedModel.of(model, options.runtime)
        cache = () if options.outputs else counting(loaded.runner.outputs)
        options = replace(options, outputs=cache) if cache else options
        split = read_samples(loaded, sources, options, clock)
        found = find_sites(
            loaded.model, include=options.include, exclude=options.exclude, multiple=options.rank_multiple,
            rigid=options.rounds,
        ).sharing(options.shares)  # fmt: skip
        found = with_overrides(found, options)
        if cache:
            split = replace(split, notes=(*split.notes, cache_note(cache)))
        inventory = replace(found, ranged=RangeSamples(split.calibration.feeds, options.runtime))
        quantizer = PostQuantizer(loaded, split.calibration.feeds, options, clock)
        fits = LabelFits(loaded, split.calibration, options, clock, next(iter(options.outputs), None))
        return Session(loaded, split, inventory, options, clock, sources.random, quantizer, fits)

    def renewed(self, **changes: Any) -> Session:
        """Return the session with other fields, and nothing measured or collected yet."""
        return replace(self, trials={}, _known={}, **changes)

    def validating_on(self, samples: Samples) -> Session:
        """Return the session with other validation samples; what was collected is shared, what they judged is not."""
        known: dict[Hashable, Any] = {key: self._known[key] for key in COLLECTED if key in self._known}
        return replace(self, split=replace(self.split, validation=samples), trials={}, _known=known)

    def refitting_last_layer(self) -> Session:
        """Return the session with the last layer fitted to labels behind factoring; what was collected is shared."""
        options = replace(self.options, last_layer=True)
        return replace(self, options=options, label_fits=self.label_fits.renewed(options), trials={})

    def with_post_quantization(self, then: Then | None) -> Session:
        """Return the session with another step after factoring; what was collected is shared, trials are not."""
        options = replace(self.options, then=then)
        quantizer = PostQuantizer(self.loaded, self.split.calibration.feeds, options, self.clock)
        return replace(self, options=options, quantizer=quantizer, trials={})

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        value: T = self._known[key]
        return value

    def metric(self, gate: Gate) -> tuple[Metric, str]:
        """Return the metric and why. Raises GoalError where the gate cannot be met with it."""
        validation = self.split.validation
        metric, why = self._once(
            "metric", lambda: choose(self.options, validation, first_outputs(self.loaded, validation.feeds))
        )
        refuse_impossible(metric, gate)
        return metric, why

    @property
    def why_metric(self) -> str:
        """The metric and why, in one sentence; empty before it was chosen."""
        known: tuple[Metric, str] | None = self._known.get("metric")
        return "" if known is None else known[1]

    def checked(self, gate: Gate) -> Checked:
        """Check the original, the metric and the samples before any work.

        Raises ModelError for an original that is not deterministic, MetricError for a metric that measures nothing.
        """
        metric, _ = self.metric(gate)
        return self._once("checked", lambda: self._checked(metric))

    def _checked(self, metric: Metric) -> Checked:
        options, validation, runner = self.options, self.split.validation, self.loaded.runner
        if self.varying and not options.allow_random:
            refuse_random(self.loaded.model, self.varying)
        said = [f"not deterministic ({self.varying}): judged against its own spread"] if self.varying else []
        warnings, measured = check_metric(metric, validation, runner, options.seed, weak=options.allow_weak_baseline)
        return Checked(measured, (*said, *warnings))

    def look_over(self, gate: Gate) -> str:
        """Return why nothing can be certified by the samples there are, or "". Raises like `checked`."""
        metric, _ = self.metric(gate)
        validation = self.split.validation
        grouped = validation.groups is not None
        return too_few(metric, gate, self.checked(gate).measured, validation.units, grouped=grouped)

    @property
    def varying(self) -> str:
        """What differs between two runs of the original; empty where nothing does."""
        validation = self.split.validation
        return self._once("varying", lambda: varies(self.loaded.model, self.loaded.runner, validation))

    @property
    def spread(self) -> bool:
        """Whether candidates are judged against the original's own spread."""
        return bool(self.varying)

    def judge(self, gate: Gate) -> Judges:
        """Return the judges on validation; the original is measured once a gate."""
        metric, _ = self.metric(gate)
        loaded, validation, options = self.loaded, self.split.validation, self.options
        return self._once(
            ("judges", gate),
            lambda: judges_of(
                loaded, validation, metric, gate, options, lambda: self.checked(gate).measured, spread=self.spread
            ),
        )

    def test_judge(self, gate: Gate) -> Judge | None:
        """Return the judge on the test samples, made once a gate; None where there are none."""
        test = self.split.test
        if test is None:
            return None
        metric, _ = self.metric(gate)
        return self._once(
            ("test", gate), lambda: make_judge(self.loaded, test, metric, gate, self.options, spread=self.spread)
        )

    def screening_judge(self, gate: Gate) -> tuple[Judge, bool] | None:
        """Return the judge on samples that nothing is fitted on: see `held_back_judges`."""
        return screening_judge(self.loaded, self.split.screening, self.metric(gate)[0], self.options)

    def labelled_judge(self) -> Judge | None:
        """Return the judge of the labels' cross-entropy on the same samples, with the objective of the labels."""
        return labelled_judge(self.loaded, self.split.screening, self.state, self.options)

    @property
    def state(self) -> SensitivityState | None:
        """What was collected, in the number formats that were asked for last; None before `collect`."""
        state: SensitivityState | None = self._known.get("current", self._known.get("state"))
        return state

    @property
    def divergence(self) -> DivergenceKind:
        """The loss that sensitivity is predicted for, as far as it was collected."""
        kind: DivergenceKind = self._known.get("divergence", "relative-l2")
        return kind

    def collect(self, metric: Metric) -> SensitivityState:
        """Return curves and factors, collected at the first call. Raises DataError, MetricError, GoalError."""
        return self._once("state", lambda: self._collected(metric))

    def _collected(self, metric: Metric) -> SensitivityState:
        kind = self._once("divergence", lambda: kind_of(self.loaded, metric, self.split.calibration))
        inventory = self.inventory.factorable
        calibrated = calibrate(self.loaded, self.split.calibration, inventory, self.options, self.clock, kind)
        return self._probed(calibrated)

    def _probed(self, calibrated: Calibrated) -> SensitivityState:
        inventory, held_back = self.inventory.factorable, self.split.held_back
        state = probe(self.loaded, inventory, calibrated, self.options, self.clock, held_back)
        return replace(state, curves=self._signed(state.curves, calibrated))

    def in_formats(self, state: SensitivityState, resource: Resource) -> SensitivityState:
        """Return what was collected, with options in all number formats that are allowed and run here.

        Of bytes those of weights alone, of time those in which operators multiply integers.
        """
        if not self.options.rounds:
            return state
        made, notes = self._once(("formats", resource), lambda: self._formatted(state, resource))
        self._known.update(formats=notes, current=made)
        return made

    def _formatted(self, state: SensitivityState, resource: Resource) -> tuple[SensitivityState, tuple[str, ...]]:
        extend = in_arithmetic if resource == "latency" else with_formats

        def make() -> Formatted:
            return Formatted.of(*extend(self.loaded, self.inventory, self.options, state, self.clock))

        formatted = self.kept.once("number formats", lambda: (resource,), make)
        return formatted.on(state), formatted.notes

    @property
    def kept(self) -> Kept:
        """What keeps results for other runs."""
        metric: tuple[Metric, str] | None = self._known.get("metric")
        loaded, split, inventory, options = self.loaded, self.split, self.inventory, self.options
        return Kept.of(loaded, split, inventory, options, metric and metric[0], self.divergence, self.clock, self.told)

    def collected_together(self, many: Sequence[Options], metric: Metric) -> list[Session]:
        """Return sessions with other options, collected at once: see `calibrate_together`."""
        kind = self._once("divergence", lambda: kind_of(self.loaded, metric, self.split.calibration))
        done = calibrate_together(self.loaded, self.split.calibration, self.inventory, many, self.clock, kind)
        sessions = [self.renewed(options=options) for options in many]
        for session, calibrated in zip(sessions, done, strict=True):
            session._known.update(metric=self._known["metric"], divergence=kind)
            session._known["state"] = session._probed(calibrated)
        return sessions

    def _signed(self, curves: tuple[Curve, ...], calibrated: Calibrated) -> tuple[Curve, ...]:
        """Return the curves with the cross-fitted first-order term, where it is asked for."""
        if not self.options.first_order or not calibrated.slopes:
            return curves
        halves = {
            site: (slope[: len(slope) // 2], slope[len(slope) // 2 :]) for site, slope in calibrated.slopes.items()
        }
        return signed(curves, halves)

    def problem(self, resource: Resource, state: SensitivityState | None = None) -> Problem:
        """Return the rank-choice problem in one resource; latency is measured for it. Collects where nothing is yet."""
        collected = state or self.in_formats(self.collect(self.metric(Gate(observed=True))[0]), resource)
        return self.priced(resource, collected).problem

    def priced(self, resource: Resource, state: SensitivityState) -> Priced:
        """Return the rank-choice problem in one resource, and what the original costs where it had to be measured."""
        tails = state.calibrated.tails if self.options.inter_layer and not state.calibrated.fallback else None
        weights = {site.id: site.weight for site in self.inventory.sites}
        if resource != "latency":
            priced = Problem(state.curves, weights, resource, tails, blend=state.selection.blend)
            return Priced(imposed(priced, self.inventory.sites))
        timed = self.stopwatch(state).timed(state.curves, state.calibrated.decomposed.factors, self.clock)
        tails = {site: t[:, list(timed.kept[site])] for site, t in tails.items()} if tails is not None else None
        notes = tuple(untimed_note(weight, why) for weight, why in timed.untimed.items())
        problem = Problem(timed.curves, weights, resource, tails, blend=state.selection.blend)
        return Priced(imposed(problem, self.inventory.sites), timed.original, notes)

    def stopwatch(self, state: SensitivityState) -> Stopwatch:
        """Return what times options, made once."""
        feeds = timed_feeds(self.split.validation.feeds)
        observed = state.calibrated.observed
        return self._once(
            "stopwatch", lambda: Stopwatch.of(self.loaded.model, self.inventory, observed, feeds, self.options)
        )

    def shrink(self, state: SensitivityState, plan: Plan) -> SensitivityState:
        """Go one step of continuation: collect again on the plan's model."""
        held_back = self.split.held_back
        shrunk = go_on(self.loaded, self.inventory, state, plan, self.options, self.clock, held_back)
        return replace(shrunk, curves=self._signed(shrunk.curves, shrunk.calibrated))

    def inventory_of(self, state: SensitivityState) -> Inventory:
        """Return the inventory that plans are written with: weights are rounded as their losses were measured."""
        return replace(self.inventory, compensation=state.compensation)

    def factors(self, plan: Plan, state: SensitivityState) -> dict[FactorKey, Factors]:
        """Return the factors of a plan: as they were decomposed, or refitted on the compressed prefix."""
        if not self._may_refit(plan):
            return dict(state.calibrated.decomposed.factors)
        return self._repaired(plan, state).factors

    def _may_refit(self, plan: Plan) -> bool:
        asked = self.options.refit is not None or not plan.mild
        return self.options.may_refit and bool(plan.factored) and asked

    def options_for(self, plan: Plan) -> Options:
        """Return the options with what was decided for a plan in place of what was left open."""
        return replace(self.options, refit=self.refitted_on(plan) > 0)

    def refitted_on(self, plan: Plan) -> int:
        """Return on how many samples at most a plan's last factors were refitted, 0 where they were not."""
        repaired: Repaired | None = self._known.get(("repaired", plan.plain.choices))
        return 0 if repaired is None or not self._may_refit(plan) else repaired.refitted_on

    def _repaired(self, plan: Plan, state: SensitivityState) -> Repaired:
        factors = state.calibrated.decomposed.factors
        given = {f"{site} {scheme}": made for (site, scheme), made in factors.items()}

        def parts() -> tuple[object, ...]:
            return *forms_of(plan.plain.choices), len(self.split.validation)

        room = self.options.memory // REFITS
        return self._once(
            ("repaired", plan.plain.choices),
            lambda: spilled(
                self.kept.beneath("refitting", parts, lambda: self._refitted(plan.plain, state), given), room, given
            ),
        )

    def _refitted(self, plan: Plan, state: SensitivityState) -> Repaired:
        decomposed, inventory = dict(state.calibrated.decomposed.factors), self.inventory_of(state)
        probing, held_back = state.calibrated.objective.probing, self.split.held_back
        limit = kept_outputs(self.options)
        unseen = self._once("held back", lambda: Reference(self.loaded.runner, held_back, limit=limit))
        return repaired(self.loaded, self.split, inventory, plan, decomposed, probing, unseen, self.options, self.clock)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes to the user on model and samples, as far as they were checked."""
        loading = (*self.split.notes, *loading_notes(self.loaded, self.inventory), *self.kept.notes)
        if self.state is None:
            return loading
        narrow = narrow_notes(self.inventory, self.state.calibrated)
        rows = inventory_notes(self.inventory, self.split.calibration.feeds)
        formats: tuple[str, ...] = self._known.get("formats", ())
        known = self.state.calibrated.notes
        return (*loading, *narrow, *rows, *self.label_fits.notes, *known, *formats, self.state.source)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings to show beside every claim; none before `checked`."""
        checked: Checked | None = self._known.get("checked")
        return checked.warnings if checked is not None else ()
