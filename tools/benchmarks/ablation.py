"""Part "ablation": bases, scores, rules and switches at equal size, over three seeds.

A seed leaves out a tenth of the calibration samples and draws other targets. Ranks are chosen on calibration data
alone; every plan meets the test inputs once. The loss is the divergence from the original's own outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.curves import said
from benchmarks.lines import Lines
from benchmarks.zoo import ROOT, Entry, Set
from onnx_lowrank.collection import stream_moments
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.errors import GoalError
from onnx_lowrank.metrics import Metric, choose_metric
from onnx_lowrank.options import Gate, Options, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.calibrate import Calibrated, calibrate, kind_of, objective_of, probe
from onnx_lowrank.pipeline.continuation import SensitivityState, go_on
from onnx_lowrank.pipeline.loaded_model import LoadedModel, batch_of, first_outputs, make_judge
from onnx_lowrank.pipeline.refit import refit
from onnx_lowrank.plan import Problem, alds, energy, paper_lossless, signed
from onnx_lowrank.plan.allocate import least_loss
from onnx_lowrank.progress import Silent
from onnx_lowrank.runtime.batching import batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, read
from onnx_lowrank.schemes import SCHEMES, Factors, spectrum
from onnx_lowrank.sensitivity import Decomposed, decompose
from onnx_lowrank.statistics import LEVEL, single_interval
from onnx_lowrank.types import Array, Curve, Moments, Plan
from onnx_lowrank.validation import Judge
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory

PART = "ablation"
LEVELS = (0.9, 0.8, 0.6, 0.4)
SEEDS = (0, 1, 2)
LEFT_OUT = 10
"""One calibration sample in so many is left out, others for every seed."""
MOST = 128
"""Test samples a set that the loss is measured on, at most."""
SLOW = ("+ continuation", "+ refit")
SLOW_LEVELS = (0.8,)
"""These collect or run the model again for every plan, so they are measured at one size."""
JUDGED = ("whitened, uniform", "whitened, global", "exact + range")
"""The task's metric is measured of these, on whole test sets."""
REFIT_SAMPLES = 64
STEP = 0.5
"""Continuation goes half of the way (of what is left out) in its first step."""
PLAIN = ("plain, uniform", "plain, energy", "plain, ALDS")
"""These see no data, so they are measured once."""
METHODS = (
    *PLAIN,
    "whitened, uniform",
    "whitened, global",
    "paper",
    "A ⊗ B score",
    "exact score",
    "exact + range",
    "+ signed",
    "+ inter-layer",
    "+ refit",
    "+ continuation",
)
DEFAULT = "exact + range"
LOSSES = {"ppocr": "models/losses.py:ctc"}
"""The labelled losses of "+ signed" and "paper" where cross-entropy does not fit; they need labelled calibration."""


def cell_name(method: str, level: float, seed: int) -> str:
    """Return the name of a cell."""
    return f"{method}/{level:g}/{seed}"


def wanted(quick: bool) -> Iterator[tuple[str, float, int]]:
    """Yield every cell, a seed at a time (what is collected serves all its cells), the cheap ones first."""
    for seed in SEEDS[:1] if quick else SEEDS:
        for methods, levels in (([m for m in METHODS if m not in SLOW], LEVELS), (SLOW, SLOW_LEVELS)):
            for method in methods:
                for level in (0.8,) if quick else levels:
                    if seed == 0 or method not in PLAIN:
                        yield method, level, seed


@dataclass(frozen=True, slots=True, eq=False)
class Tests:
    """The unseen inputs: the divergence from the original on all of them, and the task's metric where there is one."""

    loaded: LoadedModel
    objective: Objective
    sets: Mapping[str, Samples]
    judges: Mapping[str, Judge]
    references: Mapping[str, list[dict[str, Any]]]

    @staticmethod
    def of(entry: Entry, loaded: LoadedModel, options: Options, *, quick: bool) -> Tests:
        """Read them."""
        whole = {test.name: read(test.path, loaded.runner.inputs) for test in entry.tests}
        sets = {name: _some(samples, 64 if quick else MOST) for name, samples in whole.items()}
        judged = sets if quick else whole
        judges = {t.name: _judge(loaded, t, judged[t.name], options) for t in entry.tests if t.metric}
        references = {name: [_lean(loaded.runner.run(f)) for f in samples.feeds] for name, samples in sets.items()}
        calibration = read(entry.calibration.path, loaded.runner.inputs)
        kind = kind_of(loaded, _validation_metric(entry, loaded), calibration)
        return Tests(loaded, objective_of(loaded, calibration, options, kind), sets, judges, references)

    def measure(self, runner: Runner, *, judged: bool) -> dict[str, Any]:
        """Return loss and metric of a candidate, set by set, and the loss over all samples."""
        losses = {name: self._losses(name, runner) for name in self.sets}
        together = np.concatenate(list(losses.values()))
        return {
            "loss": _interval(together),
            "losses": {name: _interval(values) for name, values in losses.items()},
            "n": len(together),
            "tests": {name: said(judge.judge(runner)) for name, judge in self.judges.items() if judged},
        }

    def _losses(self, name: str, runner: Runner) -> np.ndarray[Any, Any]:
        feeds, found = self.sets[name].feeds, []
        for run in batches(feeds, batch_of(self.loaded, feeds)):
            for outputs in split(runner.run(join(run)), run):
                found.append(self.objective.divergence(self.references[name][len(found)], outputs, 1))
        return np.minimum(np.array(found), 1e6)


def _lean(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.copy() for name, value in outputs.items()}


def _interval(values: np.ndarray[Any, Any]) -> list[float]:
    found = single_interval(values, LEVEL)
    return [found.estimate, found.low, found.high]


def _some(samples: Samples, most: int) -> Samples:
    picks = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), most)).round().astype(int))
    return samples.subset([int(i) for i in picks])


def _judge(loaded: LoadedModel, test: Set, samples: Samples, options: Options) -> Judge:
    metric, _ = choose_metric(test.metric, samples.labels, first_outputs(loaded, samples.feeds))
    return make_judge(loaded, samples, metric, Gate(max_drop=0.0, observed=True), options)


def _validation_metric(entry: Entry, loaded: LoadedModel) -> Metric:
    samples = read(entry.validation.path, loaded.runner.inputs)
    return choose_metric(entry.metric, samples.labels, first_outputs(loaded, samples.feeds))[0]


@dataclass(eq=False)
class Workbench:
    """One model and one seed: everything collected once, when first asked for."""

    entry: Entry
    loaded: LoadedModel
    inventory: Inventory
    options: Options

    @cached_property
    def calibration(self) -> Samples:
        """The samples, without the tenth that this seed leaves out."""
        samples = read(self.entry.calibration.path, self.loaded.runner.inputs)
        rng = np.random.default_rng(self.options.seed)
        left_out = set(rng.choice(len(samples), len(samples) // LEFT_OUT, replace=False).tolist())
        return samples.subset([i for i in range(len(samples)) if i not in left_out])

    def _calibrated(self, sensitivity: str, **switches: Any) -> Calibrated:
        options = replace(self.options, sensitivity=sensitivity, **switches)  # type: ignore[arg-type]
        kind = kind_of(self.loaded, _validation_metric(self.entry, self.loaded), self.calibration)
        return calibrate(self.loaded, self.calibration, self.inventory, options, Silent(), kind)

    @property
    def loss(self) -> str | None:
        """The labelled loss, None for cross-entropy."""
        own = LOSSES.get(self.entry.name)
        return None if own is None else str(ROOT / own)

    def problem(self, curves: tuple[Curve, ...], tails: Any = None) -> Problem:
        """Return the rank-choice problem of some curves."""
        return Problem(curves, {site.id: site.weight for site in self.inventory.sites}, "parameters", tails)

    @cached_property
    def plain(self) -> Calibrated:
        """Plain SVD."""
        return self._calibrated("weights")

    @cached_property
    def whitened(self) -> Calibrated:
        """SVD in the metric of the inputs."""
        return self._calibrated("inputs")

    def whitened_of(self, changed: Callable[[Array, Moments], Moments]) -> Decomposed:
        """Return SVD in a metric that is made of the inputs' moments; all samples fit, all score."""
        feeds, whole = self.calibration.feeds, self.whitened
        stream = stream_moments(
            self.loaded.model, self.inventory, whole.observed, feeds, whole.score, self.options, batch=whole.batch,
            progress=lambda n: None,
        )  # fmt: skip
        moments = ((site, changed(self.inventory.weight(site), fit), score) for site, fit, score in stream)
        return decompose(self.inventory, whole.observed, moments, whiten=True, multiple=self.options.rank_multiple)

    @cached_property
    def whitened_curves(self) -> tuple[Curve, ...]:
        """Its losses, measured by substitution."""
        return probe(self.loaded, self.inventory, self.whitened, replace(self.options, sensitivity="inputs"), Silent())[
            0
        ]

    @cached_property
    def paper(self) -> Calibrated:
        """Plain SVD with first-order terms."""
        return self._calibrated("paper", loss=self.loss)

    @cached_property
    def joint(self) -> Calibrated:
        """The two-sided basis, scored exactly."""
        return self._calibrated("joint")

    @cached_property
    def labelled(self) -> Calibrated:
        """The same, with the first-order term of a labelled loss."""
        return self._calibrated("joint", signed=True, loss=self.loss)

    @cached_property
    def reached(self) -> tuple[Curve, ...]:
        """The curves with the perturbation range enforced: what the product plans with."""
        return probe(self.loaded, self.inventory, self.joint, self.options, Silent())[0]

    def kron_curves(self) -> tuple[Curve, ...]:
        """Return the curves with the A ⊗ B score in place of the exact one."""
        scored = self.joint.joint.scored if self.joint.joint else {}

        def kron(curve: Curve) -> Curve:
            options = [
                o if o.dense else replace(o, loss=float(s.kron[s.ranks.index(o.ranks)]))
                for o in curve.options
                for s in [scored.get((curve.site, o.scheme))]
                if o.dense or s is not None
            ]
            return replace(curve, options=tuple(options))

        return tuple(kron(curve) for curve in self.joint.decomposed.curves)

    def signed_curves(self) -> tuple[Curve, ...]:
        """Return the default's curves with the cross-fitted first-order term."""
        slopes = self.labelled.slopes
        halves = {site: (s[: len(s) // 2], s[len(s) // 2 :]) for site, s in slopes.items()}
        options = {curve.site: len(curve.options) for curve in self.reached}
        return signed(self.reached, {k: v for k, v in halves.items() if v[0].shape[1] == options.get(k)})


Built = tuple[Plan | None, Mapping[tuple[str, str], Factors]]


def _plain(bench: Workbench, level: float, rule: Callable[[Problem, float], Plan | None]) -> Built:
    problem = bench.problem(bench.plain.decomposed.curves)
    return rule(problem, level * problem.dense), bench.plain.decomposed.factors


def spectra(inventory: Inventory, made: Decomposed) -> dict[tuple[str, str], Array]:
    """Return (site id, scheme) -> singular values, of every scheme with one truncation: what ALDS bounds."""
    return {
        (site.id, scheme.name): spectrum(scheme, inventory.weight(site), site.groups)
        for site in inventory.sites
        for scheme in SCHEMES
        if (site.id, scheme.name) in made.factors and len(scheme.sides(site.shape, site.groups)) == 1
    }


def _alds(bench: Workbench, level: float) -> Built:
    spectral = spectra(bench.inventory, bench.plain.decomposed)
    return _plain(bench, level, lambda problem, budget: alds(problem, budget, spectral))


def _paper(bench: Workbench, level: float) -> Built:
    problem = bench.problem(bench.paper.decomposed.curves)
    for gamma in (0.1, 0.2, 0.4, 0.8, 1.0):  # the smallest bound at which the size can be reached at all
        plan = paper_lossless(problem, level * problem.dense, gamma)
        if plan is not None:
            return plan, bench.paper.decomposed.factors
    return None, bench.paper.decomposed.factors


def _best(bench: Workbench, curves: tuple[Curve, ...], made: Calibrated, level: float, tails: Any = None) -> Built:
    problem = bench.problem(curves, tails)
    return least_loss(problem, level * problem.dense, "global"), made.decomposed.factors


def _whitened_uniform(bench: Workbench, level: float) -> Built:
    problem = bench.problem(bench.whitened.decomposed.curves)
    return problem.uniform(level * problem.dense), bench.whitened.decomposed.factors


def _refitted(bench: Workbench, level: float) -> Built:
    plan, factors = _best(bench, bench.reached, bench.joint, level)
    if plan is None:
        return plan, factors
    feeds = _some(bench.calibration, REFIT_SAMPLES).feeds
    batch = batch_of(bench.loaded, feeds)
    return plan, refit(bench.loaded.model, bench.inventory, plan, factors, feeds, bench.options, batch=batch)


def _continued(bench: Workbench, level: float) -> Built:
    problem = bench.problem(bench.reached)
    first = problem.best((1 - STEP * (1 - level)) * problem.dense, "first step")
    if first is None:
        return None, {}
    state = SensitivityState(bench.joint, bench.reached, "")
    there = go_on(bench.loaded, bench.inventory, state, first, bench.options, Silent())
    return _best(bench, there.curves, there.calibrated, level)


RULES: Mapping[str, Callable[[Workbench, float], Built]] = {
    "plain, uniform": lambda b, level: _plain(b, level, lambda problem, budget: problem.uniform(budget)),
    "plain, energy": lambda b, level: _plain(b, level, energy),
    "plain, ALDS": _alds,
    "whitened, uniform": _whitened_uniform,
    "whitened, global": lambda b, level: _best(b, b.whitened_curves, b.whitened, level),
    "paper": _paper,
    "A ⊗ B score": lambda b, level: _best(b, b.kron_curves(), b.joint, level),
    "exact score": lambda b, level: _best(b, b.joint.decomposed.curves, b.joint, level),
    "exact + range": lambda b, level: _best(b, b.reached, b.joint, level),
    "+ signed": lambda b, level: _best(b, b.signed_curves(), b.joint, level),
    "+ inter-layer": lambda b, level: _best(b, b.reached, b.joint, level, b.joint.tails),
    "+ refit": _refitted,
    "+ continuation": _continued,
}


def measure(entry: Entry, lines: Lines) -> None:
    """Measure every missing cell of a model. Raises LowRankError."""
    missing = [c for c in wanted(lines.setting.quick) if not lines.has(PART, entry.name, cell_name(*c), entry.sha256)]
    if not missing:
        return
    options = Options(runtime=Runtime(threads=lines.setting.threads))
    loaded = LoadedModel.of(entry.model, options)
    inventory = find_sites(loaded.model, multiple=options.rank_multiple).sharing(False)  # as continuation has it
    tests = Tests.of(entry, loaded, options, quick=lines.setting.quick)
    bench: Workbench | None = None
    for method, level, seed in missing:
        if bench is None or bench.options.seed != seed:
            bench = Workbench(entry, loaded, inventory, replace(options, seed=seed))
        data = _measured(bench, tests, method, level)
        lines.add(PART, entry.name, cell_name(method, level, seed), entry.sha256, data)
        print(f"{entry.name}: {method} {level:g} seed {seed}: {data.get('loss', data.get('why'))}", flush=True)


def _measured(bench: Workbench, tests: Tests, method: str, level: float) -> dict[str, Any]:
    try:
        plan, factors = RULES[method](bench, level)
    except GoalError as refusal:
        return {"reachable": False, "why": str(refusal)}
    if plan is None:
        return {"reachable": False, "why": "no plan of this size within the rule"}
    candidate = rewrite(bench.loaded.model, bench.inventory, plan, factors)
    runner = Runner(candidate, runtime=bench.options.runtime)
    dense = sum(site.parameters for site in bench.inventory.sites)
    return {
        "reachable": True,
        "kept_factorable": plan.cost.parameters / dense,
        "kept_model": 1 - (dense - plan.cost.parameters) / bench.inventory.parameters,
        "predicted": plan.loss,
        "unit": tests.objective.unit,
        **tests.measure(runner, judged=method in JUDGED),
    }


__all__ = ["DEFAULT", "LEVELS", "METHODS", "PART", "SEEDS", "cell_name", "measure"]
