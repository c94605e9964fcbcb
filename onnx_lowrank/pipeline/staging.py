"""From a plan that passed to a file that holds: written aside, checked, reloaded, judged again, then published."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from onnx_lowrank.graph.model_io import Level, StagedModel, check, load, staged
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.passes.node_marks import METADATA_KEY, told
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Certificate, Feed, Plan, Verdict
from onnx_lowrank.validation import Judge

SWITCHES = (
    *("exponents", "objective", "signed", "inter_layer", "refit", "continuation"),
    *("temperature", "logit_bias", "last_layer"),
)
TIMED = 32
"""Samples that latency is measured on."""


def stamp(
    model: onnx.ModelProto,
    plan: Plan,
    *,
    version: str,
    goal: str,
    options: Options,
    sha256: str,
    warning: str,
    then: Mapping[str, str],
    certificate: Certificate | None = None,
) -> None:
    """Write provenance into the model's metadata: no time, no path, so equal runs give equal bytes."""
    record: dict[str, object] = {
        "tool": f"onnx-lowrank {version}",
        "algorithm": goal,
        "sensitivity": options.sensitivity,
        "switches": [name for name in SWITCHES if getattr(options, name) not in (False, getattr(Options(), name))],
        "seed": options.seed,
        "source_sha256": sha256,
        "ranks": {c.weight: told(c.option.form) for c in plan.factored},
    }
    if certificate is not None:
        record["certificate"] = asdict(certificate)
    if then:
        record["quantised"] = dict(then)
    if warning:
        record["warning"] = warning
    for entry in [p for p in model.metadata_props if p.key == METADATA_KEY]:
        model.metadata_props.remove(entry)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(record, sort_keys=True)


@contextmanager
def on_disk(model: onnx.ModelProto, output: Path | None) -> Iterator[StagedModel]:
    """Stage a model beside its target, or in a temporary place where there is none."""
    if output is not None:
        with staged(model, output) as stage:
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
