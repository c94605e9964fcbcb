"""From a plan that passed to a file that holds: written aside, checked, reloaded, judged again, then published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_lowrank.graph.model_io import Apart, Level, StagedModel, check, load, staged
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Feed, Verdict
from onnx_lowrank.validation import Judge

TIMED = 32
"""Samples that latency is measured on."""


@contextmanager
def on_disk(model: onnx.ModelProto, output: Path | None, options: Options) -> Iterator[StagedModel]:
    """Stage a model beside its target, or in a temporary place where there is none."""
    if output is not None:
        with staged(model, output, Apart(options.save_as_external_data, options.shard_size)) as stage:
            yield stage
        return
    with tempfile.TemporaryDirectory(prefix="onnx-lowrank-") as folder, staged(model, Path(folder) / "m.onnx") as stage:
        yield stage


def publish(stage: StagedModel, loaded: LoadedModel, before_writing: Callable[[], None] | None = None) -> None:
    """Move a staged model into place, unless `before_writing` raises or the place is the input's."""
    if before_writing is not None:
        before_writing()
    stage.publish(loaded.files)


@dataclass(frozen=True, slots=True, eq=False)
class Reloaded:
    """A staged model opened again from its file."""

    runner: Runner
    model: onnx.ModelProto
    verdict: Verdict


def reopen(stage: StagedModel, loaded: LoadedModel, judge: Judge, runtime: Runtime) -> tuple[Reloaded, list[str]]:
    """Check the file, open it, judge it. Raises ModelError where it does not pass the checker or cannot be loaded."""
    notes = checked(stage.path, loaded)
    runner = Runner(stage.path, runtime=runtime)
    return Reloaded(runner, load(stage.path), judge.judge(runner)), notes


def checked(path: Path, loaded: LoadedModel) -> list[str]:
    """Check a file at the level that the original passes. Return a note where that is not the full check.

    Raises ModelError where it is below. Opening it with onnxruntime comes next, and is the lowest level.
    """
    level = loaded.standing.level
    check(path, level)
    passes = {Level.FULL: "", Level.BASIC: "passes onnx.checker's basic check", Level.LOADS: "is loaded by onnxruntime"}
    return [f"like the original, the result {passes[level]}"] if passes[level] else []


def timed_feeds(feeds: Iterable[Feed]) -> list[Feed]:
    """Return the samples that latency is measured on."""
    return [feed for feed, _ in zip(feeds, range(TIMED), strict=False)]
