"""Part "methods": ways to choose factors and ranks at equal size, on the same sites and calibration samples.

Top-1 and loss on the test labels of a classifier; every plan meets them once, none is chosen by validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg

from benchmarks.ablation import RULES, Built, Workbench
from benchmarks.lines import Lines
from benchmarks.paper import Scored, compared, scored
from benchmarks.zoo import Entry
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.subject import Subject
from onnx_lowrank.rewrite import rewrite
from onnx_lowrank.runtime import Runner
from onnx_lowrank.samples import read
from onnx_lowrank.sites import find_sites
from onnx_lowrank.types import Array, Moments

PART = "methods"
KEEPS = (0.5, 0.3, 0.2, 0.1)
OURS = "ours"
POWER = 0.5
"""ASVD's α: inputs are scaled by their mean size to this power (arXiv 2312.05821)."""


def asvd(bench: Workbench, level: float) -> Built:
    """Return plain SVD of W S, S = diag(E|x|^α), the same share of every weight."""
    made = bench.whitened_of(_scaled)
    problem = bench.problem(made.curves)
    return problem.uniform(level * problem.dense), made.factors


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


METHODS: Mapping[str, Callable[[Workbench, float], Built]] = {
    "plain SVD": RULES["plain, uniform"],
    "energy threshold": RULES["plain, energy"],
    "ALDS": RULES["plain, ALDS"],
    "SVD-LLM": RULES["whitened, uniform"],
    "ASVD": asvd,
    "paper": RULES["paper"],
    OURS: RULES["exact + range"],
}


def cell_name(method: str, keep: float) -> str:
    """Return the name of a cell."""
    return f"{method}/{keep:g}"


def wanted(quick: bool) -> Iterator[tuple[str, float]]:
    """Yield every cell, a method at a time."""
    for method in METHODS:
        for keep in KEEPS[1:2] if quick else KEEPS:
            yield method, keep


def measure(entry: Entry, lines: Lines) -> None:
    """Measure every missing cell of a classifier. Raises LowRankError."""
    missing = [c for c in wanted(lines.setting.quick) if not lines.has(PART, entry.name, cell_name(*c), entry.sha256)]
    if not missing:
        return
    options = Options(threads=lines.setting.threads, seed=lines.setting.seed)
    subject = Subject.of(entry.model, options)
    found = find_sites(subject.model, multiple=options.rank_multiple)
    bench = Workbench(entry, subject, found, options)
    test = read(entry.tests[0].path, subject.runner.inputs)
    original = scored(subject.runner, test)
    for method, keep in missing:
        data = _cell(bench, METHODS[method], keep, original, test)
        lines.add(PART, entry.name, cell_name(method, keep), entry.sha256, data)
        print(f"{entry.name}: {method} {keep:g}: {data.get('top1')}", flush=True)


def _cell(
    bench: Workbench, rule: Callable[[Workbench, float], Built], keep: float, original: Scored, test: Any
) -> dict[str, Any]:
    dense = sum(site.parameters for site in bench.found.sites)
    whole = bench.found.parameters
    plan, factors = rule(bench, (keep * whole - (whole - dense)) / dense)
    if plan is None:
        return {"reachable": False}
    model = rewrite(bench.subject.model, bench.found, plan, factors)
    runner = Runner(model, provider=bench.options.provider, threads=bench.options.threads)
    kept = (whole - dense + plan.cost.parameters) / whole
    return {"reachable": True, "kept": kept, **compared(original, scored(runner, test))}
