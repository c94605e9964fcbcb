"""The model and its samples: read, checked, and ready to be measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from onnx_lowrank import metrics
from onnx_lowrank.errors import DataError, GoalError, MetricError, ModelError
from onnx_lowrank.goals import Gate
from onnx_lowrank.graph import model_io
from onnx_lowrank.graph.large import proto_bytes
from onnx_lowrank.graph.model_io import Standing
from onnx_lowrank.metrics import Metric, choose_metric, impossible_goal
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.passes.prepare import prepared
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.batching import batch_size
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import RandomData, Samples, Source, Split, make_split, read, settled
from onnx_lowrank.types import Feed, Outputs
from onnx_lowrank.types.checks import shown

RANDOM_WARNING = (
    "calibrated and validated on random data: nothing here says how the model does on real inputs; give --data"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSources:
    """Where samples come from: paths or Python objects, see `onnx_lowrank.samples.read`; RANDOM invents them.

    data calibrates, validation decides (a part of data where it is None), test is measured once, at the end.
    force_overlap: the same samples may be in two of them.

    >>> from onnx_lowrank import RANDOM, DataSources
    >>> sources = DataSources(data="cal.npz", validation="val.npz")
    >>> sources.test is None, sources.random, DataSources(data=RANDOM).random
    (True, False, True)
    """

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
    onnx.checker, which the result must pass as well.
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
    def of(model: onnx.ModelProto | Path | str, runtime: Runtime) -> LoadedModel:
        """Load and open a model. Raises ModelError, RuntimeProblem."""
        read = read_model(model)
        runner = Runner(read.model, runtime=runtime)
        standing = model_io.standing(read.model if isinstance(model, onnx.ModelProto) else Path(model))
        ready, sha256 = prepared(read.model), model_io.content_hash(read.model)
        return LoadedModel(
            model=ready.model,
            runner=runner,
            source=read.source,
            sha256=sha256,
            bytes=read.bytes,
            original=read.model,
            inlined=ready.inlined,
            moved=ready.moved,
            files=read.files,
            standing=standing,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ReadModel:
    """An opened model: `source` names it; files: those it was read from, none for an object."""

    model: onnx.ModelProto
    source: str
    bytes: int
    files: tuple[Path, ...] = ()


def read_model(model: onnx.ModelProto | Path | str) -> ReadModel:
    """Read a model from a file, or take it as it is. Raises ModelError."""
    if isinstance(model, onnx.ModelProto):
        return ReadModel(model, "the model given", proto_bytes(model))
    if not isinstance(model, str | os.PathLike):
        raise ModelError(f"a model is the path of an .onnx or an onnx.ModelProto, not {shown(model)}")
    path = Path(model)
    return ReadModel(
        model_io.load(path), str(model), model_io.file_bytes(path), tuple(model_io.model_files(path.absolute()))
    )


def read_samples(loaded: LoadedModel, sources: DataSources, options: Options, progress: Progress) -> Split:
    """Return disjoint calibration, validation and test samples. Raises DataError."""
    inputs = loaded.runner.inputs
    with progress.step("looking at the data", 1) as advance:
        (data, validation, test), guesses = settled((sources.data, sources.validation, sources.test), loaded.runner)
        advance(1)

    def take(source: Source | None, role: str) -> Samples | None:
        if source is None:
            return None
        with progress.step(f"reading {role}", 1) as advance:
            samples = read(source, inputs, groups=options.groups, seed=options.seed)
            advance(1)
        return samples

    calibration = take(data, "calibration samples")
    if calibration is None:
        raise DataError("no calibration samples: give --data, or --random-data to try the tool without any")
    split = make_split(
        calibration,
        take(validation, "validation samples"),
        take(test, "test samples"),
        seed=options.seed,
        force=sources.force_overlap,
    )
    return replace(split, notes=(*guesses, *split.notes))


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


def batch_of(loaded: LoadedModel, feeds: Sequence[Feed]) -> int:
    """Return how many samples of this set may be run together."""
    return batch_size(loaded.runner, feeds)


def same_interface(original: Runner, candidate: Runner) -> None:
    """Raise ModelError where two models differ in inputs or outputs."""
    for kind, first, second in (
        ("input", original.inputs, candidate.inputs),
        ("output", original.outputs, candidate.outputs),
    ):
        if [(s.name, s.type) for s in first] != [(s.name, s.type) for s in second]:
            raise ModelError(
                f"the models differ in their {kind}s: {_names(first)} against {_names(second)};"
                " compare two versions of one model"
            )


def _names(specs: Sequence[object]) -> str:
    return ", ".join(f"{getattr(spec, 'name', '?')} {getattr(spec, 'type', '')}" for spec in specs)
