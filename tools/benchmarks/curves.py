"""Part "curves": plain and whitened factors, uniform and global ranks, at fixed shares of the factorable parameters.

Ranks are chosen on calibration data only, and every plan meets every test set exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lines import Lines
from benchmarks.zoo import Entry, Set
from onnx_lowrank.metrics import choose_metric
from onnx_lowrank.options import Gate, Options, Runtime, Sensitivity
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.calibrate import calibrate, kind_of, probe
from onnx_lowrank.pipeline.loaded_model import LoadedModel, first_outputs, make_judge
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import Silent
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, read
from onnx_lowrank.sensitivity import Decomposed
from onnx_lowrank.types import Interval, Plan, Verdict
from onnx_lowrank.validation import Judge
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory

PART = "curves"
BASELINE = "baseline"
LEVELS = (0.9, 0.8, 0.6, 0.4)
QUICK_LEVELS = (0.8,)
SENSITIVITIES: tuple[Sensitivity, ...] = ("weights", "inputs")
ALLOCATIONS = ("uniform", "global")
QUICK_SAMPLES = 64


def cell_name(sensitivity: str, allocation: str, level: float) -> str:
    """Return the name of a plan's cell."""
    return f"{sensitivity}/{allocation}/{level:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Cutting:
    """A model decomposed and probed once; plans are cut from it."""

    inventory: Inventory
    decomposed: Decomposed
    problem: Problem
    unit: str

    def plan(self, allocation: str, level: float) -> Plan | None:
        """Return the plan that keeps at most `level` of the factorable parameters, None where none does."""
        budget = level * self.problem.dense
        return self.problem.uniform(budget) if allocation == "uniform" else self.problem.best(budget, "global")


def measure(entry: Entry, lines: Lines) -> None:
    """Measure every missing cell of a model. Raises LowRankError."""
    options = Options(seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads))
    levels = QUICK_LEVELS if lines.setting.quick else LEVELS
    wanted = [(s, a, level) for s in SENSITIVITIES for a in ALLOCATIONS for level in levels]
    missing = [key for key in wanted if not lines.has(PART, entry.name, cell_name(*key), entry.sha256)]
    if not missing and lines.has(PART, entry.name, BASELINE, entry.sha256):
        return
    loaded = LoadedModel.of(entry.model, options)
    judges = {test.name: judge_of(loaded, test, options, quick=lines.setting.quick) for test in entry.tests}
    if not lines.has(PART, entry.name, BASELINE, entry.sha256):
        lines.add(PART, entry.name, BASELINE, entry.sha256, _baseline(entry, loaded, judges, options))
        print(f"{entry.name}: the original measured", flush=True)
    for sensitivity in SENSITIVITIES:
        todo = [(allocation, level) for s, allocation, level in missing if s == sensitivity]
        if not todo:
            continue
        cutting = cut(
            entry, loaded, Options(seed=options.seed, runtime=Runtime(threads=options.threads), sensitivity=sensitivity)
        )
        for allocation, level in todo:
            data = _evaluate(loaded, cutting, cutting.plan(allocation, level), judges, options)
            name = cell_name(sensitivity, allocation, level)
            lines.add(PART, entry.name, name, entry.sha256, data)
            print(f"{entry.name}: {name} done", flush=True)


def judge_of(loaded: LoadedModel, chosen: Set, options: Options, *, quick: bool = False) -> Judge:
    """Return the judge on one set, by the recipe's metric for it."""
    samples = read(chosen.path, loaded.runner.inputs)
    if quick:
        samples = samples.subset(range(min(len(samples), QUICK_SAMPLES)))
    metric, _ = choose_metric(chosen.metric, samples.labels, first_outputs(loaded, samples.feeds))
    return make_judge(loaded, samples, metric, Gate(max_drop=0.0, observed=True), options)


def cut(entry: Entry, loaded: LoadedModel, options: Options) -> Cutting:
    """Return the model decomposed and probed, as `optimize` does it."""
    inventory = find_sites(loaded.model, multiple=options.rank_multiple)
    calibration = read(entry.calibration.path, loaded.runner.inputs)
    kind = kind_of(loaded, _validation_metric(entry, loaded), calibration)
    calibrated = calibrate(loaded, calibration, inventory, options, Silent(), kind)
    curves, unit = probe(loaded, inventory, calibrated, options, Silent())
    problem = Problem(curves, {site.id: site.weight for site in inventory.sites}, "parameters")
    return Cutting(inventory, calibrated.decomposed, problem, unit)


def _validation_metric(entry: Entry, loaded: LoadedModel) -> Any:
    samples = read(entry.validation.path, loaded.runner.inputs)
    return choose_metric(entry.metric, samples.labels, first_outputs(loaded, samples.feeds))[0]


def _evaluate(
    loaded: LoadedModel, cutting: Cutting, plan: Plan | None, judges: dict[str, Judge], options: Options
) -> dict[str, Any]:
    if plan is None:
        return {"reachable": False}
    candidate = rewrite(loaded.model, cutting.inventory, plan, cutting.decomposed.factors)
    runner = Runner(candidate, runtime=options.runtime)
    kept = plan.cost.parameters
    return {
        "reachable": True,
        "kept_factorable": kept / cutting.problem.dense,
        "kept_model": 1 - (cutting.problem.dense - kept) / cutting.inventory.parameters,
        "factored": len(plan.factored),
        "predicted": plan.loss,
        "unit": cutting.unit,
        "tests": {name: said(judge.judge(runner)) for name, judge in judges.items()},
    }


def said(verdict: Verdict) -> dict[str, Any]:
    """Return what a verdict says, as JSON."""
    return {
        "metric": verdict.metric,
        "n": verdict.samples,
        "higher_is_better": verdict.higher_is_better,
        "original": triple(verdict.original),
        "candidate": triple(verdict.candidate),
        "drop": triple(verdict.drop),
    }


def triple(interval: Interval) -> list[float]:
    """Return estimate, low and high."""
    return [interval.estimate, interval.low, interval.high]


def _baseline(entry: Entry, loaded: LoadedModel, judges: dict[str, Judge], options: Options) -> dict[str, Any]:
    """Measure the original on every labelled set, and look for samples that two sets share."""
    inventory = find_sites(loaded.model, multiple=options.rank_multiple)
    validation = judge_of(loaded, entry.validation, options)
    sets = [(entry.validation, validation), *((test, judges[test.name]) for test in entry.tests)]
    return {
        "sets": {chosen.name: _original(chosen, judge) for chosen, judge in sets},
        "shared": _shared([read(s.path, loaded.runner.inputs) for s in _all_sets(entry)]),
        "counts": {chosen.name: chosen.n for chosen in _all_sets(entry)},
        "sites": len(inventory.sites),
        "factorable": sum(site.parameters for site in inventory.sites),
        "parameters": inventory.parameters,
        "bytes": loaded.bytes,
    }


def _all_sets(entry: Entry) -> tuple[Set, ...]:
    return (entry.calibration, entry.validation, *entry.tests)


def _original(chosen: Set, judge: Judge) -> dict[str, Any]:
    return {
        "metric": judge.metric.name,
        "n": len(judge.reference.feeds),
        "note": chosen.note,
        "original": triple(judge.original()),
        "recipe": chosen.baseline,
    }


def _shared(sets: Sequence[Samples]) -> int:
    """Return how many different inputs are in more than one set."""
    contents = [set(samples.hashes) for samples in sets]
    everything = set().union(*contents)
    return sum(map(len, contents)) - len(everything)
