"""The model under work and its samples: read, looked over, and ready to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from onnx_lowrank import metrics
from onnx_lowrank.errors import DataError, GoalError, MetricError, ModelError
from onnx_lowrank.graph import model_io
from onnx_lowrank.graph.model_io import Level, Standing
from onnx_lowrank.metrics import Metric, choose_metric, impossible_goal
from onnx_lowrank.options import Gate, Options
from onnx_lowrank.passes.inline_functions import inlined
from onnx_lowrank.passes.lift_body_weights import lifted
from onnx_lowrank.passes.topological_sort import topologically_sorted
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.batching import batch_size
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import RandomData, Samples, Source, Split, make_split, read
from onnx_lowrank.types import Feed, Outputs
from onnx_lowrank.validation import Judge

PREVIEW, PREVIEW_LEAST, PREVIEW_LEVEL = 5, 100, 0.999
"""A first glance takes a fifth of the validation samples, at least 100, and intervals of this level."""
RANDOM_WARNING = (
    "calibrated and validated on random data: nothing here says how the model does on real inputs; give --data"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSources:
    """Where samples come from: paths or Python objects, see `onnx_lowrank.samples.read`; RANDOM invents them."""

    data: Source
    validation: Source | None = None
    test: Source | None = None
    force_overlap: bool = False

    @property
    def random(self) -> bool:
        """Whether any of the samples are invented."""
        return any(isinstance(source, RandomData) for source in (self.data, self.validation, self.test))


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A loaded model with its original in onnxruntime; `bytes` is the size of its files.

    model: what is worked on: the original, but with its nodes in order, with functions that hold weights `inlined`
    (their names), and with so many weights `moved` out of the bodies of If, Loop and Scan. files: those it was read
    from, which nothing may overwrite; none for a model given as an object. standing: how far the original passes
    onnx.checker, which is what the result is held to.
    """

    model: onnx.ModelProto
    runner: Runner
    source: str
    sha256: str
    bytes: int
    original: onnx.ModelProto | None = None
    inlined: tuple[str, ...] = ()
    moved: int = 0
    files: tuple[Path, ...] = ()
    standing: Standing = field(default_factory=Standing)

    @staticmethod
    def of(model: onnx.ModelProto | Path | str, options: Options) -> LoadedModel:
        """Load and open a model. Raises ModelError, RuntimeProblem."""
        files: tuple[Path, ...] = ()
        if isinstance(model, onnx.ModelProto):
            proto, source, size = model, "the model given", model.ByteSize()
        else:
            proto, source, size = model_io.load(Path(model)), str(model), model_io.file_bytes(Path(model))
            files = tuple(model_io.model_files(Path(model).absolute()))
        runner = Runner(proto, runtime=options.runtime)
        met = model_io.standing(proto if isinstance(model, onnx.ModelProto) else Path(model))
        model, names = inlined(topologically_sorted(proto))
        model, moved = lifted(model)
        return LoadedModel(model, runner, source, model_io.content_hash(proto), size, proto, names, moved, files, met)


def standing_notes(standing: Standing, which: str) -> list[str]:
    """Return what a user has to know of a model that onnxruntime takes and onnx.checker does not, or not wholly."""
    if standing.level is Level.FULL:
        return []
    check = "onnx.checker's full check" if standing.level is Level.BASIC else "onnx.checker"
    return [f"{which} does not pass {check} ({standing.why}), but onnxruntime loads it"]


def held_notes(standing: Standing) -> list[str]:
    """Return the same of an original, with what its result is held to."""
    held = "to the basic check" if standing.level is Level.BASIC else "to that"
    return [f"{note}: the result is held {held}" for note in standing_notes(standing, "the original")]


def inlined_note(names: Sequence[str]) -> str:
    """Return what a user has to know of local functions that are gone."""
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"local functions are inlined, so that weights in them can be factored: {shown}"


def moved_note(count: int) -> str:
    """Return what a user has to know of weights that are stored somewhere else."""
    which = "1 weight is" if count == 1 else f"{count} weights are"
    return f"{which} moved from inside If, Loop or Scan to the main graph, to be factored there"


def quantised_note(count: int) -> str:
    """Return what a user has to know of factors that are integers."""
    which = (
        "1 weight is stored as 8-bit integers, and so are its"
        if count == 1
        else (f"{count} weights are stored as 8-bit integers, and so are their")
    )
    return f"{which} factors, with scales of the same kind; what lies between two factors stays float"


def read_samples(loaded: LoadedModel, sources: DataSources, options: Options, progress: Progress) -> Split:
    """Return disjoint calibration, validation and test samples. Raises DataError."""
    inputs = loaded.runner.inputs

    def take(source: Source | None, role: str) -> Samples | None:
        if source is None:
            return None
        with progress.step(f"reading {role}", 1) as advance:
            samples = read(source, inputs, groups=options.groups, seed=options.seed)
            advance(1)
        return samples

    data = take(sources.data, "calibration samples")
    if data is None:
        raise DataError("no calibration samples: give --data, or --random-data to try the tool without any")
    return make_split(
        data,
        take(sources.validation, "validation samples"),
        take(sources.test, "test samples"),
        seed=options.seed,
        force=sources.force_overlap,
    )


def first_outputs(loaded: LoadedModel, feeds: Sequence[Feed]) -> Outputs:
    """Return the original's outputs on the first few samples."""
    return metrics.first_outputs(loaded.runner, feeds)


def choose(options: Options, samples: Samples, outputs: Outputs) -> tuple[Metric, str]:
    """Return the metric asked for, or the one that fits the outputs that count, and why. Raises MetricError."""
    for name in options.outputs:
        if name not in outputs:
            raise MetricError(
                f"--output {name}: the model has no such output; it has {', '.join(map(repr, outputs))}"
                " (the file to write is -o)"
            )
    counting = {name: values for name, values in outputs.items() if name in options.outputs} or outputs
    metric, why = choose_metric(options.metric, samples.labels, outputs if options.metric is not None else counting)
    first = next(iter(counting))
    if options.metric is None and metric.output is None and first != next(iter(outputs)):
        metric = replace(metric, output=first)  # type: ignore[type-var]
    return metric, why


def refuse_impossible(metric: Metric, gate: Gate) -> None:
    """Raise GoalError where no changed model can meet a gate with this metric."""
    impossible = impossible_goal(metric, gate)
    if impossible:
        raise GoalError(impossible)


def make_judge(
    loaded: LoadedModel, samples: Samples, metric: Metric, gate: Gate, options: Options, *, spread: bool = False
) -> Judge:
    """Return the judge of candidates on one set. `spread`: the original is not deterministic."""
    return Judge(
        loaded.runner, samples.feeds, samples.labels, metric, gate, seed=options.seed, groups=samples.group_numbers,
        outputs=options.outputs or None, spread=spread,
    )  # fmt: skip


def make_preview(
    loaded: LoadedModel, samples: Samples, metric: Metric, gate: Gate, options: Options, *, spread: bool = False
) -> Judge | None:
    """Return the judge of a first glance, at a part of the samples and at a level that no chance survives.

    A candidate whose drop's interval lies above the allowed drop even there need not see the rest; one that passes
    the glance has still to pass the whole set. None where the set is too small to save anything.
    """
    count = max(len(samples) // PREVIEW, PREVIEW_LEAST)
    if 2 * count > len(samples):
        return None
    part = samples.subset([int(i) for i in np.linspace(0, len(samples) - 1, count)])
    return make_judge(loaded, part, metric, replace(gate, confidence=PREVIEW_LEVEL), options, spread=spread)


def batch_of(loaded: LoadedModel, feeds: Sequence[Feed]) -> int:
    """Return how many samples of this set may be run together."""
    return batch_size(loaded.runner, feeds)


def same_interface(one: Runner, other: Runner) -> None:
    """Raise ModelError where two models differ in inputs or outputs."""
    for kind, first, second in (("input", one.inputs, other.inputs), ("output", one.outputs, other.outputs)):
        if [(s.name, s.type) for s in first] != [(s.name, s.type) for s in second]:
            raise ModelError(
                f"the models differ in their {kind}s: {_names(first)} against {_names(second)};"
                " compare two versions of one model"
            )


def _names(specs: Sequence[object]) -> str:
    return ", ".join(f"{getattr(spec, 'name', '?')} {getattr(spec, 'type', '')}" for spec in specs)
