"""Part "floor": every weight alone at its largest rank, and how close the original's own decisions are.

Where the mildest change of a single weight already costs more than a goal allows, a plan that has it can pass only if
others make up for it. All is measured on validation samples, at most SAMPLES of them for the weights; never on test's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.ablation import Workbench
from benchmarks.curves import triple
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Lines
from benchmarks.zoo import Entry
from onnx_lowrank.collection import overridable
from onnx_lowrank.metrics import Collector, Measured, Metric, agreement, choose_metric, class_output, drop_of, listed
from onnx_lowrank.metrics.class_scores import log_probabilities, probable
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline.loaded_model import LoadedModel, first_outputs
from onnx_lowrank.runtime.batching import join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples, read
from onnx_lowrank.sensitivity.substitution import LARGEST_LOSS, stored_weight
from onnx_lowrank.statistics import LEVEL, single_interval
from onnx_lowrank.types import Array, Curve, Option
from onnx_lowrank.validation import Reference, within
from onnx_lowrank.weights.find import find_sites

PART = "floor"
CELL = "weights"
MODELS = ("minilm", "ppocr", "efficientnet")
SAMPLES = 200
QUICK_SAMPLES = 24
MARGINS = (0.01, 0.02, 0.05)
DECIDED = "top1"
"""The metric under which a sample is one decision, so that margins and flips mean something."""


@dataclass(eq=False)
class Scene:
    """Validation samples, the original on them, and one session in which any weight can be replaced."""

    samples: Samples
    metric: Metric
    runner: Runner
    decided: bool
    seed: int
    reference: Reference = field(init=False)
    original: Measured = field(init=False)
    classes: str | None = None

    def __post_init__(self) -> None:
        self.reference = Reference(self.runner, self.samples.feeds)
        collector = Collector(self.metric, self.samples.labels, self.seed, original=True)
        for _, outputs in self.reference.batches():
            if self.decided and self.classes is None:
                self.classes = class_output(self.metric, listed(outputs))
            collector.add(outputs, outputs)
        self.original = collector.result()

    def replaced(self, weight: str, value: Array, bench: Workbench) -> dict[str, Any]:
        """Return the metric's drop, the loss, and the share of decisions that flip, with one weight replaced."""
        collector = Collector(self.metric, self.samples.labels, self.seed, original=False)
        losses: list[float] = []
        kept: list[float] = []
        for feeds, reference in self.reference.batches():
            outputs = split(self.runner.run({**join(feeds), weight: value}), feeds)
            collector.add(outputs, reference)
            for pair in zip(reference, outputs, strict=True):
                losses.append(min(bench.joint.objective.divergence(*pair, 1), LARGEST_LOSS))
                if self.classes is not None:
                    kept.append(agreement(*(side[self.classes] for side in pair)))
        drop = drop_of(self.metric, self.original, collector.result(), LEVEL, relative=False)
        return {
            "drop": triple(drop),
            "exceeds": not within(drop.estimate, MAX_DROP, 1.0),
            "loss": triple(single_interval(np.array(losses), LEVEL)),
            "flips": triple(single_interval(1 - np.array(kept), LEVEL)) if kept else None,
        }


def measure(entry: Entry, lines: Lines) -> None:
    """Measure a model's floor, if that has not been done. Raises LowRankError."""
    if entry.name not in MODELS or lines.has(PART, entry.name, CELL, entry.sha256):
        return
    options = Options(seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads))
    loaded = LoadedModel.of(entry.model, options)
    bench = Workbench(entry, loaded, find_sites(loaded.model, multiple=options.rank_multiple), options)
    scene = _scene(bench, QUICK_SAMPLES if lines.setting.quick else SAMPLES)
    data = {
        "metric": scene.metric.name,
        "unit": bench.joint.objective.unit,
        "n": len(scene.samples),
        "allowed": MAX_DROP,
        "sites": len(bench.inventory.sites),
        "factorable": sum(site.parameters for site in bench.inventory.sites),
        "margins": _margins(bench, scene, whole=not lines.setting.quick) if scene.classes is not None else None,
        "weights": _weights(bench, scene),
    }
    lines.add(PART, entry.name, CELL, entry.sha256, data)
    count = sum(weight["exceeds"] for weight in data["weights"])
    print(f"{entry.name}: {count} of {len(data['weights'])} weights alone exceed {MAX_DROP:g}", flush=True)


def _scene(bench: Workbench, most: int) -> Scene:
    whole = read(bench.entry.validation.path, bench.loaded.runner.inputs)
    picks = np.unique(np.linspace(0, len(whole) - 1, min(len(whole), most)).round().astype(int))
    samples = whole.subset([int(i) for i in picks])
    metric, _ = choose_metric(bench.entry.metric, samples.labels, first_outputs(bench.loaded, samples.feeds))
    names = {site.id: site.weight for site in bench.inventory.sites}
    model = overridable(bench.loaded.model, [names[curve.site] for curve in bench.joint.decomposed.curves])
    runner = Runner(model, runtime=bench.options.runtime)
    return Scene(samples, metric, runner, bench.entry.metric.endswith(f":{DECIDED}"), bench.options.seed)


def _weights(bench: Workbench, scene: Scene) -> list[dict[str, Any]]:
    sites = {site.id: site for site in bench.inventory.sites}
    found = []
    for curve in bench.joint.decomposed.curves:
        option = mildest(curve)
        if option is None:
            continue
        site = sites[curve.site]
        factors = bench.joint.decomposed.factors[curve.site, option.scheme]
        said = scene.replaced(site.weight, stored_weight(bench.inventory, site, factors, option), bench)
        about = {
            "site": curve.site,
            "node": site.node,
            "scheme": option.scheme,
            "rank": "x".join(map(str, option.ranks)),
        }
        saved = curve.dense.cost.parameters - option.cost.parameters
        found.append({**about, "predicted": option.loss, "saved": saved, **said})
    return found


def mildest(curve: Curve) -> Option | None:
    """Return the option of the largest rank on offer: the most parameters short of dense; None where there is none."""
    smaller = [o for o in curve.options if not o.dense and o.cost.parameters < curve.dense.cost.parameters]
    return max(smaller, key=lambda o: (o.cost.parameters, -o.loss), default=None)


def _margins(bench: Workbench, scene: Scene, *, whole: bool) -> dict[str, Any]:
    """Return how many decisions are close, of the whole validation set or of the samples at hand."""
    feeds = read(bench.entry.validation.path, bench.loaded.runner.inputs).feeds if whole else scene.samples.feeds
    found = []
    for _, outputs in Reference(scene.runner, feeds, limit=0).batches():
        found.extend(margin(sample[str(scene.classes)]) for sample in outputs)
    return {"n": len(found), "shares": close(found)}


def margin(scores: Array) -> float:
    """Return the least p₁ − p₂ over a sample's positions: by how much its decision leads the next."""
    chances = np.sort(np.exp(log_probabilities(scores, probabilities=probable(scores))), axis=1)
    return float((chances[:, -1] - chances[:, -2]).min())


def close(margins: Sequence[float]) -> list[list[float]]:
    """Return (bound, share below it, low, high) for every bound."""
    below = [(bound, (np.array(margins) < bound).astype(float)) for bound in MARGINS]
    return [[bound, *triple(single_interval(share, LEVEL))] for bound, share in below]
