"""Part "methods": ways to choose factors and ranks at equal size, on the same sites and calibration samples.

Top-1 and loss on the test labels of a classifier; every plan meets them once, none is chosen by validation. Ours is
measured first, and its decisions are kept: every other method's are paired with them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from benchmarks.ablation import RULES, Built, Workbench, spectra
from benchmarks.curves import triple
from benchmarks.lines import Lines
from benchmarks.paper import Scores, compared, scored, some
from benchmarks.zoo import Entry
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.plan import Problem, alds, energy
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, read
from onnx_lowrank.sensitivity import Decomposed
from onnx_lowrank.sensitivity.decompose import decompose_plain
from onnx_lowrank.statistics import LEVEL, exact_difference
from onnx_lowrank.types import Array, Curve, Moments, Option, Plan
from onnx_lowrank.weights.find import find_sites

PART = "methods"
KEEPS = (0.5, 0.3, 0.2, 0.1)
OURS = "ours"
POWER = 0.5
"""ASVD's α: inputs are scaled by their root mean square to this power (arXiv 2312.05821: by their mean size)."""


class Bench(Workbench):
    """One model, everything collected once, when first asked for; all calibration samples, for every method."""

    @cached_property
    def calibration(self) -> Samples:
        """The samples."""
        return read(self.entry.calibration.path, self.loaded.runner.inputs)

    @cached_property
    def weights_alone(self) -> Decomposed:
        """Plain SVD, errors of the weights themselves."""
        return decompose_plain(self.inventory, self.options.rank_multiple)

    @cached_property
    def by_inputs(self) -> Decomposed:
        """SVD in the metric of the inputs."""
        return self.whitened_of(lambda weight, fit: fit)

    @cached_property
    def by_input_sizes(self) -> Decomposed:
        """Plain SVD of W S, S = diag(s) with s the root mean square of each input to the power of α (ASVD)."""
        return self.whitened_of(_scaled)


Rule = Callable[[Bench, float], Built]


def filled(problem: Problem, plan: Plan | None, budget: float, first: Callable[[Option, Option], float]) -> Plan | None:
    """Return the plan with what it leaves of the budget given away, a step at a time.

    Ranks are multiples of 8 and many sites have one shape, so one share or bound for all can be far below the budget.
    Each step goes to the site of least `first(option, dense option)` that can have one.
    """
    if plan is None:
        return None
    picks = [curve.options.index(choice.option) for curve, choice in zip(problem.curves, plan.choices, strict=True)]
    left = budget - plan.cost.parameters
    while True:
        there = [
            (first(curve.options[pick], curve.dense), site, to)
            for site, (curve, pick) in enumerate(zip(problem.curves, picks, strict=True))
            if (to := _next(curve, pick, left)) is not None
        ]
        if not there:
            return problem.plan(picks, f"{plan.origin}, filled")
        _, site, to = min(there)
        options = problem.curves[site].options
        left -= options[to].cost.parameters - options[picks[site]].cost.parameters
        picks[site] = to


def uniform(problem: Problem, budget: float) -> Plan | None:
    """Return the plan that keeps the same share of every site; what is over goes where the share is smallest."""
    plan = problem.uniform(budget)
    return filled(problem, plan, budget, lambda now, dense: now.cost.parameters / dense.cost.parameters)


def _bounded(rule: Callable[[Problem, float], Plan | None]) -> Callable[[Problem, float], Plan | None]:
    """Return a rule with one bound on the error for all sites; what is over goes where the error is largest."""
    return lambda problem, budget: filled(problem, rule(problem, budget), budget, lambda now, dense: -now.error)


def _next(curve: Curve, pick: int, left: float) -> int | None:
    """Return the cheapest option of less error that costs more than the one picked, but at most `left` more."""
    now = curve.options[pick]
    fitting = [
        (option.cost.parameters, option.error, index)
        for index, option in enumerate(curve.options)
        if not option.shared_input
        and option.error < now.error
        and 0 < option.cost.parameters - now.cost.parameters <= left
    ]
    return min(fitting)[2] if fitting else None


def _allocated(made: Callable[[Bench], Decomposed], rule: Callable[[Problem, float], Plan | None]) -> Rule:
    def build(bench: Bench, level: float) -> Built:
        found = made(bench)
        problem = bench.problem(found.curves)
        return rule(problem, level * problem.dense), found.factors

    return build


def _alds(bench: Bench, level: float) -> Built:
    """Return ranks by ALDS's rule, on plain SVD."""
    found = bench.weights_alone
    spectral = spectra(bench.inventory, found)
    problem = bench.problem(found.curves)
    rule = _bounded(lambda given, budget: alds(given, budget, spectral))
    return rule(problem, level * problem.dense), found.factors


def _scaled(weight: Array, fit: Moments) -> Moments:
    """Return moments under which whitened SVD is that of W S: second moments S², and those of the outputs, W S² Wᵀ."""
    power = (fit.A if fit.A.ndim == 1 else np.diag(fit.A)) / fit.positions
    squares = np.maximum(power, 1e-12 * max(float(power.max()), 1e-30)) ** POWER
    A = np.diag(squares) * fit.positions if fit.A.ndim == 2 else squares * fit.positions
    if fit.C is None:
        return replace(fit, A=A)
    groups = len(squares) // weight.shape[1]
    parts = np.split(np.asarray(weight, np.float64).reshape(*weight.shape[:2], -1), groups)
    scales = squares.reshape(groups, -1)
    blocks = [
        (part * scale[:, None]).reshape(len(part), -1) @ part.reshape(len(part), -1).T
        for part, scale in zip(parts, scales, strict=True)
    ]
    return replace(fit, A=A, C=scipy.linalg.block_diag(*blocks) * fit.positions)


METHODS: Mapping[str, Rule] = {
    "plain SVD": _allocated(lambda bench: bench.weights_alone, uniform),
    "energy threshold": _allocated(lambda bench: bench.weights_alone, _bounded(energy)),
    "ALDS": _alds,
    "SVD-LLM": _allocated(lambda bench: bench.by_inputs, uniform),
    "ASVD": _allocated(lambda bench: bench.by_input_sizes, uniform),
    "paper": RULES["paper"],
    OURS: RULES["exact + range"],
}


def cell_name(method: str, keep: float) -> str:
    """Return the name of a cell."""
    return f"{method}/{keep:g}"


def wanted(quick: bool) -> Iterator[tuple[str, float]]:
    """Yield every cell, a method at a time, ours first."""
    for method in sorted(METHODS, key=lambda name: name != OURS):
        for keep in KEEPS[1:2] if quick else KEEPS:
            yield method, keep


def measure(entry: Entry, lines: Lines) -> None:
    """Measure every missing cell of a classifier. Raises LowRankError."""
    missing = [c for c in wanted(lines.setting.quick) if not lines.has(PART, entry.name, cell_name(*c), entry.sha256)]
    if not missing:
        return
    options = Options(runtime=Runtime(threads=lines.setting.threads), seed=lines.setting.seed)
    loaded = LoadedModel.of(entry.model, options)
    inventory = find_sites(loaded.model, multiple=options.rank_multiple)
    bench = Bench(entry, loaded, inventory, options)
    test = some(read(entry.tests[0].path, loaded.runner.inputs), quick=lines.setting.quick)
    original = scored(loaded.runner, test)
    ours = {keep: _kept_hits(lines, entry, keep) for keep in KEEPS}
    for method, keep in missing:
        data = _cell(bench, METHODS[method], keep, original, test)
        hits = data.pop("hits", None)
        if method == OURS:
            ours[keep] = hits
        if hits is not None and (mine := ours[keep]) is not None:
            data |= {"hits": packed(hits)} if method == OURS else {"ahead": ahead(hits, mine)}
        lines.add(PART, entry.name, cell_name(method, keep), entry.sha256, data)
        print(f"{entry.name}: {method} {keep:g}: {data.get('top1')}", flush=True)


def _cell(bench: Bench, rule: Rule, keep: float, original: Scores, test: Samples) -> dict[str, Any]:
    dense = sum(site.parameters for site in bench.inventory.sites)
    whole = bench.inventory.parameters
    plan, factors = rule(bench, (keep * whole - (whole - dense)) / dense)
    if plan is None:
        return {"reachable": False}
    model = rewrite(bench.loaded.model, bench.inventory, plan, factors)
    runner = Runner(model, runtime=bench.options.runtime)
    kept = (whole - dense + plan.cost.parameters) / whole
    found = scored(runner, test)
    return {"reachable": True, "kept": kept, "hits": found.hits, **compared(original, found)}


def packed(hits: Array) -> str:
    """Return hits (n,) of 0 and 1 as text, eight a byte."""
    return base64.b64encode(np.packbits(hits.astype(bool)).tobytes()).decode("ascii")


def unpacked(text: str, count: int) -> Array:
    """Return the hits (count,) that `packed` wrote."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(float)


def ahead(theirs: Array, ours: Array) -> dict[str, Any]:
    """Return by how much the hits of theirs (n,) exceed ours (n,), with interval, and how many each has alone."""
    won, lost = (int(((a == 1) & (b == 0)).sum()) for a, b in ((theirs, ours), (ours, theirs)))
    return {"top1": triple(exact_difference(won, lost, len(ours), LEVEL)), "flips": [won, lost]}


def _kept_hits(lines: Lines, entry: Entry, keep: float) -> Array | None:
    """Return ours of an earlier call, None where it was not measured on this model or cannot be reached."""
    name = cell_name(OURS, keep)
    data = lines.get(PART, entry.name, name, entry.sha256)
    return unpacked(data["hits"], data["n"]) if data is not None and "hits" in data else None
