"""The workbench: a model read and collected once for all parts, and the only place that imports the package's insides.

Whatever a part needs beyond the public names of `onnx_lowrank` is imported here and handed on, so that a change inside
the package is met in one file.
"""
# ruff: noqa: F401 (names that are only handed on)

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.lines import Lines
from benchmarks.zoo import CLASSIFIERS, COARSE, Entry, Set
from onnx_lowrank import (
    Compact,
    DataSources,
    Gate,
    GoalError,
    Interval,
    Lossless,
    Options,
    Plan,
    Result,
    Samples,
    Session,
    Verdict,
    meet_goal,
    read,
)
from onnx_lowrank.collection import observe_positions, overridable, shards, stream_moments
from onnx_lowrank.collection.collect import collect
from onnx_lowrank.collection.fit import fit as fit_group
from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.kept_groups import kept_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.project import project
from onnx_lowrank.collection.projected_sides import looked_at, width_of
from onnx_lowrank.collection.score import score as score_group
from onnx_lowrank.collection.setup import BYTES_OF_A_SIDE
from onnx_lowrank.cost import unchanged_cost
from onnx_lowrank.demo import MODEL as DEMO_MODEL
from onnx_lowrank.demo import demo_samples
from onnx_lowrank.goals import MAX_DROP, TOLERANCE, Goal, Resource
from onnx_lowrank.graph.editing import with_weights
from onnx_lowrank.graph.model_io import file_bytes, load, store
from onnx_lowrank.latency import Stopwatch
from onnx_lowrank.metrics import (
    Collector,
    Custom,
    Measured,
    RelativeL2,
    agreement,
    bound_of,
    choose_metric,
    class_output,
    drop_of,
    listed,
)
from onnx_lowrank.metrics.class_scores import log_probabilities, probable
from onnx_lowrank.numerics.kronecker_metric import SHRINK, bases
from onnx_lowrank.numerics.linalg import Workers, eigen
from onnx_lowrank.options import BITS, Runtime, Then
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline import refit
from onnx_lowrank.pipeline.accuracy_search import claimed, compete, folds_of, parts_of, runner_of
from onnx_lowrank.pipeline.confirm import Target
from onnx_lowrank.pipeline.judges import make_judge
from onnx_lowrank.pipeline.ledger import size_before
from onnx_lowrank.pipeline.loaded_model import batch_of, first_outputs, same_interface
from onnx_lowrank.pipeline.planners import planner_of
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.pipeline.staging import timed_feeds
from onnx_lowrank.plan import Problem, alds, compact, energy, paper_lossless
from onnx_lowrank.plan.allocate import curve_plans, least_loss
from onnx_lowrank.plan.groups import Tie
from onnx_lowrank.plan.knapsack import relaxed
from onnx_lowrank.plan.problem import amount
from onnx_lowrank.progress import Silent
from onnx_lowrank.quantization.onnxruntime_int8 import CALIBRATED, quantised, settings
from onnx_lowrank.runtime.batching import batch_size, batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.runtime.timing import Runs, interleaved
from onnx_lowrank.samples import halves
from onnx_lowrank.schemes import SCHEMES, Factors, KernelFirst, Svd, fitting, offered, spectrum
from onnx_lowrank.schemes import scheme as scheme_room
from onnx_lowrank.sensitivity import Decomposed, decompose
from onnx_lowrank.sensitivity.curves import joint_curves
from onnx_lowrank.sensitivity.decompose import decompose_plain
from onnx_lowrank.sensitivity.gradient_mode import collection_setup
from onnx_lowrank.sensitivity.measure import calibration_setup, kind_of, objective_of, probe
from onnx_lowrank.sensitivity.substitution import LARGEST_LOSS, arriving, stored_weight, substitution
from onnx_lowrank.statistics import (
    LEVEL,
    RESAMPLES,
    aggregate_interval,
    difference_p_value,
    exact_difference,
    paired_interval,
    proportion_interval,
    resamples,
    single_interval,
)
from onnx_lowrank.statistics.betting import beaten
from onnx_lowrank.statistics.noninferiority import difference_bound
from onnx_lowrank.types import Array, Cost, Curve, Feed, Moments, Option
from onnx_lowrank.validation import Judge, Reference, within
from onnx_lowrank.validation.race import Gain, Race
from onnx_lowrank.validation.race import chosen as surest
from onnx_lowrank.weights.inventory import Inventory

QUICK_SAMPLES = 64
"""Samples a set in a trial, at most."""
LEFT_OUT = 10
"""A replicate leaves out one calibration sample in so many, others for every replicate."""
ANY = Gate(max_drop=1.0, observed=True)
"""Where a size is asked for, and what it costs is what is reported."""
MOST_LOSS = 1e6
T = TypeVar("T")
Built = tuple[Plan | None, Mapping[tuple[str, str], Factors]]
"""A plan, None where none has the size asked for, and the factors that its ranks cut."""


class WorkbenchError(Exception):
    """A measurement that gave no answer, in one line: nothing is kept of it, and it is made again next time."""


def triple(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def said(verdict: Verdict) -> dict[str, Any]:
    """Return what a verdict says, as JSON."""
    ends = {name: triple(getattr(verdict, name)) for name in ("original", "candidate", "drop")}
    return {"metric": verdict.metric, "n": verdict.samples, "higher_is_better": verdict.higher_is_better, **ends}


def some(samples: Samples, most: int) -> Samples:
    """Return at most so many of the samples, spread over the set."""
    count = min(len(samples), most)
    return samples.subset([i * len(samples) // count for i in range(count)])


@dataclass(eq=False)
class Workbench:
    """One model, everything read, collected and scored once, when first asked for; always on the processor."""

    entry: Entry
    lines: Lines
    _made: dict[Any, Any] = field(default_factory=dict)

    def once(self, make: Callable[..., T], *key: Any) -> T:
        """Return `make(self, *key)`, made at the first call."""
        return self._kept((make, key), lambda: make(self, *key))

    def forget(self) -> None:
        """Let go of what one part alone has made; samples, judges and the default's collection stay."""
        kept = ("samples", "judge", "reference")
        self._made = {k: v for k, v in self._made.items() if k[0] in kept or k == ("collected", None, None)}

    @property
    def quick(self) -> bool:
        return self.lines.setting.quick

    @cached_property
    def options(self) -> Options:
        setting = self.lines.setting
        metric = "top1" if self.entry.name in CLASSIFIERS else self.entry.metric
        runtime = Runtime(threads=setting.threads, provider="cpu")
        coarse = self.entry.name in COARSE
        return Options(metric=metric, seed=setting.seed, runtime=runtime, allow_weak_baseline=coarse)

    @cached_property
    def runs(self) -> Path:
        """A folder for models that are made on the way."""
        folder = self.lines.folder / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def original(self) -> Runner:
        return self.runner(self.entry.model)

    def runner(self, model: Any, *, spin: bool = False, threads: int | None = None) -> Runner:
        """Open a model or a file. Raises ModelError."""
        return Runner(
            model,
            runtime=Runtime(provider="cpu", threads=self.options.runtime.threads if threads is None else threads),
            spin=spin,
        )

    def samples(self, chosen: Set) -> Samples:
        def make() -> Samples:
            samples = read(chosen.path, self.original.inputs)
            return some(samples, QUICK_SAMPLES) if self.quick else samples

        return self._kept(("samples", chosen.name), make)

    def _kept(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]  # type: ignore[no-any-return]

    def opened(self, model: Any = None, *, samples: DataSources | None = None, **changes: Any) -> Session:
        """Return a session of the model, or of another, in which nothing is collected yet."""
        if samples is None:
            entry = self.entry
            samples = DataSources(data=self.samples(entry.calibration), validation=self.samples(entry.validation))
        return Session.of(model or self.entry.model, samples, replace(self.options, **changes))

    @cached_property
    def session(self) -> Session:
        """What every collection starts from; nothing is collected in it."""
        return self.opened()

    def goal(self, session: Session, goal: Goal, then: Then | None = None) -> Result:
        """Return what reaches a goal from what the session has collected; no plan was met before."""
        return meet_goal(session.with_post_quantization(then), goal, dry_run=True)

    def collected(self, replicate: int | None = None, *, most: int | None = None, **changes: Any) -> Session:
        """Return a session collected on all calibration samples under changed options; what was collected is kept.

        replicate: one of the model's replicates, which leaves out a part of the samples and draws other targets.
        most: calibration samples, at most. Switches of planning (`refit`, `inter_layer`) share a collection.
        """
        planning = {name: changes.pop(name) for name in ("refit", "inter_layer") if name in changes}
        key = ("collected", replicate, most, *sorted(changes.items()))
        for old in [k for k in self._made if k[0] == "collected" and k[1] != replicate]:
            del self._made[old]  # replicates come one after the other, and need not be in memory together
        session = self._kept(key, lambda: self._collect(replicate, most, changes))
        return replace(session, options=replace(session.options, **planning), trials={}) if planning else session

    def _collect(self, replicate: int | None, most: int | None, changes: Mapping[str, Any]) -> Session:
        options, calibration = replace(self.options, **changes), self.samples(self.entry.calibration)
        if replicate is not None:
            options = replace(options, seed=replicate)
            rng = np.random.default_rng(replicate)
            out = set(rng.choice(len(calibration), len(calibration) // LEFT_OUT, replace=False).tolist())
            calibration = calibration.subset([i for i in range(len(calibration)) if i not in out])
        calibration = calibration if most is None else some(calibration, most)
        base = self.session if options.runtime == self.options.runtime else self.opened(runtime=options.runtime)
        inventory = base.inventory if options.shares else base.inventory.sharing(False)
        split = replace(base.split, calibration=calibration, screening=None)
        session = base.renewed(options=options, inventory=inventory, split=split)
        session.collect(session.metric(ANY)[0])
        return session

    @cached_property
    def plain(self) -> Decomposed:
        """Plain SVD of the weights, with errors of the weights themselves."""
        return decompose_plain(self.session.inventory, self.options.rank_multiple)

    def decomposed(self, replicate: int | None, changed: Callable[[Array, Moments], Moments]) -> Decomposed:
        """Return SVD in a metric that is made of a weight and the moments of its inputs; all samples fit."""

        def make() -> Decomposed:
            session = self.collected(replicate, sensitivity="inputs")
            whole, found, feeds = session.state.calibrated, session.inventory, session.split.calibration.feeds
            stream = stream_moments(
                session.loaded.model, found, whole.observed, feeds, whole.score, session.options, batch=whole.batch,
                progress=lambda n: None,
            )  # fmt: skip
            moments = ((site, changed(found.weight(site), fit), score) for site, fit, score in stream)
            return decompose(found, whole.observed, moments, whiten=True, multiple=session.options.rank_multiple)

        return self._kept(("collected", replicate, changed), make)

    def rewritten(self, session: Session, plan: Plan, factors: Mapping[tuple[str, str], Factors] | None = None) -> Any:
        """Return the model of a plan, with the session's factors where none are given."""
        made = session.factors(plan, session.state) if factors is None else factors
        return rewrite(session.loaded.model, session.inventory_of(session.state), plan, made)

    def judge(self, chosen: Set) -> Judge:
        """Return the judge on a set, by the recipe's metric for it; the original is measured once."""

        def make() -> Judge:
            samples = self.samples(chosen)
            outputs = first_outputs(self.session.loaded, samples.feeds)
            metric, _ = choose_metric(chosen.metric, samples.labels, outputs)
            return make_judge(self.session.loaded, samples, metric, Gate(max_drop=0.0, observed=True), self.options)

        return self._kept(("judge", chosen.name), make)

    def judged(self, model: Any, sets: Sequence[Set]) -> dict[str, Any]:
        """Return the verdict on a model on each of the sets that have a metric."""
        runner = self.runner(model)
        return {each.name: said(self.judge(each).judge(runner)) for each in sets if each.metric}

    @cached_property
    def objective(self) -> Objective:
        """The divergence from the original's outputs that fits the metric."""
        samples, session = self.samples(self.entry.calibration), self.session
        return objective_of(
            session.loaded, samples, self.options, kind_of(session.loaded, session.metric(ANY)[0], samples)
        )

    def divergences(self, model: Any, samples: Samples, key: str) -> Array:
        """Return how far a model's outputs are from the original's, sample by sample (n,); `key` names the samples."""
        runner, losses = self.runner(model), []
        for feeds, outputs in self._kept(("reference", key), lambda: Reference(self.original, samples.feeds)).batches():
            pairs = zip(outputs, split(runner.run(join(feeds)), feeds), strict=True)
            losses += [self.objective.divergence(*pair, 1) for pair in pairs]
        return np.minimum(np.array(losses), MOST_LOSS)

    def timed(
        self, second: Any, feeds: Sequence[Feed] | None = None, *, threads: int | None = None, seconds: float = 3.0
    ) -> dict[str, Any]:  # fmt: skip
        """Return a model's time over the original's, one feed a call, in turns: the ratio with interval, and ms."""
        runners = (self.runner(m, spin=True, threads=threads) for m in (self.entry.model, second))
        chosen = timed_feeds(self.samples(self.entry.validation).feeds if feeds is None else feeds)
        timing = interleaved(*runners, chosen, seed=self.options.seed, seconds=0.1 * seconds if self.quick else seconds)
        ms = [timing.first_ms, timing.second_ms]
        return {"latency": triple(timing.ratio), "milliseconds": ms, "pairs": timing.pairs, "calls": len(chosen)}


def problem_of(session: Session, curves: Sequence[Curve]) -> Problem:
    """Return the choice of ranks on some curves, by parameters."""
    return Problem(tuple(curves), {site.id: site.weight for site in session.inventory.sites}, "parameters")


def plain_inventory(inventory: Inventory) -> Inventory:
    """Return the same sites with operators that can do without no identity block: factors are plain."""
    return replace(
        inventory,
        sites=tuple(replace(site, identity=()) for site in inventory.sites),
        all_shared_inputs=tuple(replace(shared, identity=()) for shared in inventory.all_shared_inputs),
    )


def collected_to_plan(bench: Workbench) -> Session:
    """Return a session as a run has it: collected, and checked on the samples held back."""
    session = bench.session.renewed()
    session.collect(session.metric(ANY)[0])
    return session


def plain_session(session: Session) -> Session:
    """Return a session of the same collection in which factors are plain, with predictions checked anew."""
    inventory, calibrated = plain_inventory(session.inventory), session.state.calibrated
    made = joint_curves(inventory, calibrated.observed, calibrated.joint)
    curves, tails = [], {}
    for curve in made.decomposed.curves:
        dense = curve.dense.cost.parameters
        kept = [i for i, o in enumerate(curve.options) if not i or o.shared_input or o.cost.parameters < dense]
        curves.append(replace(curve, options=tuple(curve.options[i] for i in kept)))
        tails[curve.site] = made.tails[curve.site][:, kept]
    decomposed = replace(made.decomposed, curves=tuple(curves))
    calibrated = replace(calibrated, decomposed=decomposed, tails=tails if calibrated.tails else {})
    plain = session.renewed(inventory=inventory)
    screening = session.split.screening
    held_back = () if screening is None else screening.feeds
    state = probe(plain.loaded, inventory, calibrated, plain.options, plain.clock, held_back)
    plain._known["state"] = state
    return plain


def planned(session: Session, keep: float) -> Plan | None:
    """Return the plan that `--algorithm lossless` tests at a share of the factorable parameters; None where none is."""
    if not 0 < keep < 1:
        return None
    goal, state = Lossless(keep=keep, gate=ANY), session.state
    problem = session.priced("parameters", state).problem
    search = Search(session, goal, state, problem, session.judge(ANY), size_before(session))
    try:
        return next(planner_of(goal).round(search, 0).proposals or iter(()), None)
    except GoalError:
        return None


def timed_forms(session: Session, *, plain: bool) -> list[tuple[float, float]]:
    """Return (MACs, time) over the dense node's of the chains that are timed of every weight."""
    inventory, calibrated = session.inventory, session.state.calibrated
    inventory = plain_inventory(inventory) if plain else inventory
    feeds = timed_feeds(session.split.validation.feeds)
    watch = Stopwatch.of(session.loaded.model, inventory, calibrated.observed, feeds, session.options)
    timed: list[tuple[float, float]] = []
    for site in inventory.sites:
        dense = unchanged_cost(site, calibrated.observed.positions[site.id]).macs
        for scheme, _ in fitting(site, session.options.rank_multiple):
            if dense and (site.id, scheme.name) in calibrated.decomposed.factors:
                for macs, ratio in watch.ratios(site, scheme, calibrated.decomposed.factors[site.id, scheme.name]):
                    timed.append((macs / dense, ratio))
    return timed


@contextmanager
def every_rank() -> Iterator[None]:
    """Offer all ranks of every scheme, however many."""
    before, scheme_room.MOST = scheme_room.MOST, 10**9
    offered.cached_ranks.cache_clear()
    try:
        yield
    finally:
        scheme_room.MOST = before
        offered.cached_ranks.cache_clear()


def joined(first: Samples, second: Samples) -> Samples:
    """Return the samples of two sets, in order."""
    labels = np.concatenate([np.asarray(first.labels), np.asarray(second.labels)])
    return replace(first, feeds=(*first.feeds, *second.feeds), labels=labels, hashes=(*first.hashes, *second.hashes))


def factorable(session: Session) -> int:
    return sum(site.parameters for site in session.inventory.sites)


def kept_of(session: Session, plan: Plan) -> float:
    """Return the share of the whole file's parameters that a plan keeps."""
    whole = session.inventory.parameters
    return (whole - factorable(session) + plan.cost.parameters) / whole
