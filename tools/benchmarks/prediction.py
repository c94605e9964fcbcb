"""Part "prediction": the predicted rise of single substitutions against the measured one, on unseen inputs.

At every site some ranks over the whole curve are measured, each alone, with the factors that the product would write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.ablation import Workbench
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank import statistics
from onnx_lowrank.collection import overridable
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline.loaded_model import LoadedModel, batch_of
from onnx_lowrank.runtime.batching import batches, join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import read
from onnx_lowrank.sensitivity.substitution import stored_weight
from onnx_lowrank.types import Curve, Option
from onnx_lowrank.weights.find import find_sites

PART = "prediction"
CELL = "points"
RANKS = 5
SAMPLES = 48
"""Unseen inputs that a substitution is measured on, of the first test set."""


def measure(entry: Entry, lines: Lines) -> None:
    """Measure the points of a model, if that has not been done. Raises LowRankError."""
    if lines.has(PART, entry.name, CELL, entry.sha256):
        return
    options = Options(runtime=Runtime(threads=lines.setting.threads))
    loaded = LoadedModel.of(entry.model, options)
    bench = Workbench(entry, loaded, find_sites(loaded.model, multiple=options.rank_multiple), options)
    points = _points(bench, read(entry.tests[0].path, loaded.runner.inputs).feeds[:SAMPLES])
    lines.add(PART, entry.name, CELL, entry.sha256, {"points": points, "unit": bench.joint.objective.unit})
    print(f"{entry.name}: {len(points)} predictions measured", flush=True)


def _points(bench: Workbench, feeds: Any) -> list[dict[str, Any]]:
    sites = {site.id: site for site in bench.inventory.sites}
    curves = {curve.site: curve for curve in bench.joint.decomposed.curves}
    model = overridable(bench.loaded.model, [sites[name].weight for name in curves])
    runner = Runner(model, runtime=bench.options.runtime)
    runs = [join(run) for run in batches(feeds, batch_of(bench.loaded, feeds))]
    counts = [len(run) for run in batches(feeds, batch_of(bench.loaded, feeds))]
    reference = [{name: value.copy() for name, value in runner.run(feed).items()} for feed in runs]
    points = []
    for reached in bench.reached:
        for option in _spread(curves[reached.site]):
            factors = bench.joint.decomposed.factors[reached.site, option.scheme]
            weight = stored_weight(bench.inventory, sites[reached.site], factors, option)
            total = sum(
                bench.joint.objective.divergence(expected, runner.run({**feed, sites[reached.site].weight: weight}), n)
                for feed, expected, n in zip(runs, reference, counts, strict=True)
            )
            points.append(
                {
                    "site": reached.site,
                    "scheme": option.scheme,
                    "rank": "x".join(map(str, option.ranks)),
                    "predicted": option.loss,
                    "measured": min(float(total) / len(feeds), 1e6),
                    "inside": reached.trust_range is None or option.error <= reached.trust_range,
                }
            )
    return points


def _spread(curve: Curve) -> list[Option]:
    """Return options at predicted losses that are evenly spread on a log scale."""
    usable = sorted((o for o in curve.options[1:] if o.loss > 0), key=lambda o: o.loss)
    if not usable:
        return []
    logs = np.log([o.loss for o in usable])
    picks = [int(np.argmin(np.abs(logs - target))) for target in np.linspace(logs[0], logs[-1], RANKS)]
    return [usable[i] for i in dict.fromkeys(picks)]


def rank_correlation(
    points: Sequence[dict[str, Any]], *, inside: bool, resamples: int, seed: int
) -> tuple[list[float], int]:
    """Return Spearman's correlation of predicted and measured rise with its 95 % interval, and of how many points.

    The interval is estimate ± t × the standard error of a bootstrap over points, not beyond ±1: ends are infinite,
    then ±1, where there are no resamples.
    """
    chosen = [(p["predicted"], p["measured"]) for p in points if p["inside"] or not inside]
    if len(chosen) < 3:
        return [float("nan")] * 3, len(chosen)
    pairs = np.array(chosen)
    estimate = _spearman(pairs)
    drawn = np.array([_spearman(pairs[indices]) for indices in statistics.resamples(len(pairs), resamples, seed)])
    found = statistics.aggregate_interval(estimate, drawn, len(pairs), statistics.LEVEL, 2.0)
    return [estimate, max(found.low, -1.0), min(found.high, 1.0)], len(chosen)


def _spearman(pairs: np.ndarray[Any, Any]) -> float:
    """Return Pearson's correlation of the ranks of (n, 2) values, nan where all of a side are equal."""
    ranks = stats.rankdata(pairs, axis=0)
    if not np.ptp(ranks, axis=0).all():
        return float("nan")
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])
