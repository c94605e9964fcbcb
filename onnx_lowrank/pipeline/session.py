"""A study: one model, one set of samples, collected once; any number of goals, and the whole curve, from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from onnx_lowrank.errors import GoalError
from onnx_lowrank.latency import Stopwatch, Timed
from onnx_lowrank.metrics import Measured, Metric, choose_metric
from onnx_lowrank.metrics.divergence import DivergenceKind
from onnx_lowrank.options import Gate, Options, Resource
from onnx_lowrank.pipeline.calibrate import Calibrated, calibrate, kind_of, predicted_notes, probe
from onnx_lowrank.pipeline.continuation import SensitivityState, go_on
from onnx_lowrank.pipeline.loaded_model import (
    DataSources,
    LoadedModel,
    choose,
    first_outputs,
    held_notes,
    inlined_note,
    make_judge,
    make_preview,
    moved_note,
    quantised_note,
    read_samples,
    refuse_impossible,
)
from onnx_lowrank.pipeline.post_quantize import PostQuantizer
from onnx_lowrank.pipeline.refit import refit
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.plan import Problem, signed
from onnx_lowrank.progress import Clock, Progress, Silent
from onnx_lowrank.results.result import Trial
from onnx_lowrank.runtime.batching import batch_size
from onnx_lowrank.samples import Split
from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import Choice, Curve, Feed, Outputs, Plan
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.determinism import refuse_random, varies
from onnx_lowrank.validation.metric_check import check_metric
from onnx_lowrank.validation.samples_needed import too_few
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory

REFITTED = 64
"""Calibration samples that the last factors are refitted on, at most."""
FactorKey = tuple[str, str]


@dataclass(slots=True, eq=False)
class Session:
    """What is measured once and used for every goal: samples, sites, curves, and the trials already made.

    Make one with `Study.of`. Raises LowRankError (ModelError, DataError, MetricError, GoalError, RuntimeProblem).
    """

    loaded: LoadedModel
    split: Split
    inventory: Inventory
    options: Options
    clock: Clock
    random: bool
    state: SensitivityState | None = None
    divergence: DivergenceKind = "relative-l2"
    notes: list[str] = field(default_factory=list)
    trials: dict[tuple[tuple[Choice, ...], Gate], Trial] = field(default_factory=dict)
    judges: dict[Gate, tuple[Judge, Judge | None]] = field(default_factory=dict)
    repaired: dict[tuple[Choice, ...], dict[FactorKey, Factors]] = field(default_factory=dict)
    stopwatch: Stopwatch | None = None
    milliseconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    measured: Measured | None = None
    spread: bool = False
    quantizer: PostQuantizer = field(init=False)
    _outputs: Outputs | None = None
    _metric: tuple[Metric, str] | None = None

    def __post_init__(self) -> None:
        self.quantizer = PostQuantizer(self.loaded, self.split.calibration.feeds, self.options, self.clock)

    @staticmethod
    def of(
        model: onnx.ModelProto | Path | str,
        samples: DataSources | object,
        options: Options | None = None,
        *,
        progress: Progress | None = None,
    ) -> Session:
        """Read model and samples and find the sites; nothing is run yet."""
        options = options or Options()
        clock = Clock(progress or Silent())
        sources = samples if isinstance(samples, DataSources) else DataSources(data=samples)  # type: ignore[arg-type]
        loaded = LoadedModel.of(model, options)
        split = read_samples(loaded, sources, options, clock)
        inventory = find_sites(
            loaded.model, include=options.include, exclude=options.exclude, multiple=options.rank_multiple
        ).sharing(options.shares)
        notes = held_notes(loaded.standing)
        notes += [inlined_note(loaded.inlined)] if loaded.inlined else []
        notes += [moved_note(loaded.moved)] if loaded.moved else []
        integers = sum(site.itemsize == 1 for site in inventory.sites)
        notes += [quantised_note(integers)] if integers else []
        return Session(loaded, split, inventory, options, clock, sources.random, notes=notes)

    def metric(self, gate: Gate) -> tuple[Metric, str]:
        """Return the metric and why. Raises GoalError where the gate cannot be met with it."""
        if self._outputs is None:
            self._outputs = first_outputs(self.loaded, self.split.validation.feeds)
        if self._metric is None:
            self._metric = choose(self.options, self.split.validation, self._outputs)
        refuse_impossible(self._metric[0], gate)
        return self._metric

    def look_over(self, gate: Gate) -> str:
        """Look at the original, the metric and the samples before any work; return why nothing can be certified, or "".

        Raises ModelError for an original that is not deterministic, MetricError for a metric that measures nothing.
        """
        metric, _ = self.metric(gate)
        options, validation = self.options, self.split.validation
        if self.measured is None:
            random = varies(self.loaded.model, self.loaded.runner, validation)
            if random and not options.allow_random:
                refuse_random(self.loaded.model, random)
            if random:
                self.spread = True
                self.warnings.append(f"not deterministic ({random}): judged against its own spread")
            weak = options.allow_weak_baseline
            given = (metric, validation, self.loaded.runner, options.seed)
            warnings, self.measured = check_metric(*given, weak=weak)
            self.warnings.extend(warnings)
        return too_few(metric, gate, self.measured, validation.units, grouped=validation.groups is not None)

    def judge(self, gate: Gate) -> tuple[Judge, Judge | None]:
        """Return the judge on validation and the one of a first glance; the original is measured once a gate."""
        if gate not in self.judges:
            metric, _ = self.metric(gate)
            given = (self.loaded, self.split.validation, metric, gate, self.options)
            self.judges[gate] = (make_judge(*given, spread=self.spread), make_preview(*given, spread=self.spread))
        return self.judges[gate]

    def screening_judge(self, gate: Gate) -> tuple[Judge, bool] | None:
        """Return the judge on calibration samples that nothing is fitted on, and whether its metric is the run's own.

        None where no samples could be held back.
        """
        samples = self.split.screening
        if samples is None:
            return None
        metric, _ = self.metric(gate)
        own = samples.labels is not None or not metric.needs_labels
        if not own:
            metric, _ = choose_metric(None, None, first_outputs(self.loaded, samples.feeds))
        judge = make_judge(self.loaded, replace(samples, groups=None), metric, Gate(observed=True), self.options)
        return judge, own

    def collect(self, metric: Metric) -> SensitivityState:
        """Return curves and factors, collected at the first call. Raises DataError, MetricError, GoalError."""
        if self.state is None:
            self.divergence = kind_of(self.loaded, metric, self.split.calibration)
            given = (self.loaded, self.split.calibration, self.inventory, self.options, self.clock, self.divergence)
            calibrated = calibrate(*given)
            curves, unit = probe(self.loaded, self.inventory, calibrated, self.options, self.clock)
            self.state = SensitivityState(calibrated, self._signed(curves, calibrated), unit)
            self._warn_narrow(calibrated)
            self.notes.extend(unseen_rows(self.inventory, self.split.calibration.feeds))
            self.notes.extend([*calibrated.notes, *predicted_notes(self.options, curves, unit)])
        return self.state

    def _signed(self, curves: tuple[Curve, ...], calibrated: Calibrated) -> tuple[Curve, ...]:
        """Return the curves with the cross-fitted first-order term, where it is asked for."""
        if not self.options.signed or not calibrated.slopes:
            return curves
        halves = {
            site: (slope[: len(slope) // 2], slope[len(slope) // 2 :]) for site, slope in calibrated.slopes.items()
        }
        return signed(curves, halves)

    def problem(self, resource: Resource, state: SensitivityState | None = None) -> Problem:
        """Return the rank-choice problem in one resource; latency is measured for it."""
        state = state or self.state
        if state is None:
            raise GoalError("nothing was collected yet")
        tails = state.calibrated.tails if self.options.inter_layer and not state.calibrated.fallback else None
        curves = state.curves
        if resource == "latency":
            timed = self._timed(state)
            curves = timed.curves
            tails = {site: t[:, list(timed.kept[site])] for site, t in tails.items()} if tails is not None else None
        return Problem(curves, {site.id: site.weight for site in self.inventory.sites}, resource, tails)

    def _timed(self, state: SensitivityState) -> Timed:
        """Return the curves in milliseconds, and keep what the original takes."""
        if self.stopwatch is None:
            feeds = timed_feeds(iter(self.split.validation.feeds))
            given = (self.loaded.model, self.inventory, state.calibrated.observed, feeds, self.options)
            self.stopwatch = Stopwatch.of(*given)
        timed = self.stopwatch.timed(state.curves, state.calibrated.decomposed.factors, self.clock)
        self.milliseconds = timed.original
        for weight, why in timed.untimed.items():
            note = f"{weight} cannot be timed alone, so it stays as it is: {why}"
            if note not in self.notes:
                self.notes.append(note)
        return timed

    def shrink(self, state: SensitivityState, plan: Plan) -> SensitivityState:
        """Go one step of continuation: collect again on the plan's model."""
        there = go_on(self.loaded, self.inventory, state, plan, self.options, self.clock)
        return replace(there, curves=self._signed(there.curves, there.calibrated))

    def factors(self, plan: Plan, state: SensitivityState) -> dict[FactorKey, Factors]:
        """Return the factors of a plan: as they were decomposed, or refitted on the compressed prefix."""
        made = dict(state.calibrated.decomposed.factors)
        if not self.options.refit:
            return made
        if plan.choices not in self.repaired:
            with self.clock.step("refitting", 1) as advance:
                given = (self.loaded, self.split, self.inventory, plan, made, self.options)
                self.repaired[plan.choices] = refitted(*given)
                advance(1)
        return self.repaired[plan.choices]

    def _warn_narrow(self, calibrated: Calibrated) -> None:
        """Say how many samples the widest linear site wants: fewer vectors than dimensions leave directions unseen."""
        samples, positions = calibrated.fitted, calibrated.observed.positions
        seen_sites = [
            site for site in self.inventory.sites if site.id in positions and positions[site.id][0].at != "nowhere"
        ]
        linear = [site for site in seen_sites if len(site.shape) == 2]
        seen = [(site, samples * sum(place.calls for place in positions[site.id])) for site in linear]
        worst = max(((s, n) for s, n in seen if n < 4 * s.shape[1]), key=lambda p: p[0].shape[1] / p[1], default=None)
        if worst is not None:
            site, vectors = worst
            wanted = -(-4 * site.shape[1] * samples // max(int(vectors), 1))
            self.notes.append(
                f"{site.node} has {site.shape[1]} inputs and saw {vectors:,.0f} vectors:"
                f" about {wanted:,} calibration samples would serve it better"
            )


def unseen_rows(inventory: Inventory, feeds: Sequence[Feed]) -> list[str]:
    """Return a note for every table of which calibration has not looked up all rows: theirs is no measured loss."""
    notes = []
    for site in (site for site in inventory.sites if not site.body):
        names = [call.data for call in inventory.calls[site.id] if call.observable == "outputs"]
        if not names:
            continue
        given = [feed[name].reshape(-1) for feed in feeds for name in names if name in feed]
        rows = site.shape[1]
        seen = len(np.unique(np.concatenate(given) % rows)) if given else 0
        if seen < rows:
            known = f"{seen:,} of the {rows:,} rows" if given else f"an unknown part of the {rows:,} rows"
            notes.append(
                f"{site.node}: calibration looks up {known} of its table; what factoring does to the others is not"
                f" measured: give samples that hold them, for validation too, or --exclude '{site.weight}'"
            )
    return notes


def refitted(
    loaded: LoadedModel,
    split: Split,
    inventory: Inventory,
    plan: Plan,
    made: Mapping[FactorKey, Factors],
    options: Options,
) -> dict[FactorKey, Factors]:
    """Return a plan's factors with the last ones refitted on a part of the calibration samples."""
    feeds: Sequence[Feed] = split.calibration.feeds
    count = min(len(feeds), REFITTED)
    chosen = [feeds[i * len(feeds) // count] for i in range(count)]
    batch = batch_size(loaded.runner, chosen)
    return refit(loaded.model, inventory, plan, made, chosen, options, batch=batch)
