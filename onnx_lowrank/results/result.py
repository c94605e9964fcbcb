"""What the commands hand back: models, plans, verdicts, and everything that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files import spare
from onnx_lowrank.graph.model_io import Level, check, staged
from onnx_lowrank.metrics.divergence import DivergenceKind
from onnx_lowrank.options import Goal, Options
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Certificate, Curve, Plan, SharedInput, Site, Skip, Verdict


@dataclass(frozen=True, slots=True)
class Size:
    """parameters: elements of all weights; bytes: of the file(s); macs: for one sample, 0 where unknown.

    milliseconds: a sample of median size, 0 unless latency is the goal: measured for the original, predicted for plans.
    """

    parameters: int
    bytes: int
    macs: float = 0.0
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan that was measured on the validation samples."""

    plan: Plan
    verdict: Verdict
    size: Size


@dataclass(frozen=True, slots=True)
class Step:
    """One of the models that a stack is made of or compared with: FACTORED, INT8 (of the original) or BOTH.

    Judged against the original like the stack itself; `test` and `latency` where the stack passed.
    """

    name: str
    size: Size
    verdict: Verdict
    test: Verdict | None = None
    latency: Timing | None = None


FACTORED, INT8, BOTH = "factored alone", "int8 alone", "both"


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Outcome of `optimize`. Truthy when a smaller model passed; otherwise `model` is the original.

    `verdict` was measured on the model as reloaded from disk; `test` likewise, on samples nothing was chosen on.
    `certificate` is what the file claims; `warnings` belong beside any claim.
    `held_to`: the level of onnx.checker that the original meets, and so does the model.
    `latency` is the saved model's, or that of the fastest plan where it was not fast enough.
    `trials` are all plans measured, in order; `reason` says in one line how it ended. `divergence` is the loss that
    sensitivity was predicted for. `steps`, with `then`: what factoring, int8 and both do, on the same samples.
    `source_files` are those of the original, never overwritten; none where it was given as an object.
    """

    changed: bool
    model: onnx.ModelProto
    reason: str
    goal: Goal
    options: Options
    source: str
    source_hash: str
    before: Size
    after: Size
    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    plan: Plan | None = None
    verdict: Verdict | None = None
    test: Verdict | None = None
    latency: Timing | None = None
    trials: tuple[Trial, ...] = ()
    curves: tuple[Curve, ...] = ()
    metric: str = ""
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    output: Path | None = None
    warnings: tuple[str, ...] = ()
    held_to: Level = Level.FULL
    certificate: Certificate | None = None
    divergence: DivergenceKind = "relative-l2"
    steps: tuple[Step, ...] = ()
    source_files: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return self.changed

    @property
    def predicted_ratio(self) -> float | None:
        """The plan's time over the original's as it was predicted; None unless latency was the goal."""
        if not self.changed or not self.before.milliseconds:
            return None
        return self.after.milliseconds / self.before.milliseconds

    def save(self, path: Path | str) -> None:
        """Write the model atomically. Raises ModelError where nothing was gained, or the place cannot be written.

        That is so, too, for the files of the original.
        """
        if not self.changed:
            raise ModelError(f"nothing to save: {self.reason}")
        target = Path(path)
        spare(target, self.source_files)
        with staged(self.model, target) as stage:
            check(stage.path, min(self.held_to, Level.BASIC))  # `optimize` has made the full check
            stage.publish(self.source_files)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two models on the same samples. Truthy when the second holds against the first."""

    first: str
    second: str
    verdict: Verdict
    before: Size
    after: Size
    latency: Timing
    metric: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.verdict.passed


@dataclass(frozen=True, slots=True)
class WeightRow:
    """A factorable weight: the rank at which it breaks even, and those that hold 90 and 99 % of its plain energy.

    A rank for 99 % far under the break-even rank is a weight that compresses even without data.
    """

    site: Site
    bytes: int
    share: float
    break_even: float
    full_rank: int
    rank_for: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model holds: factorable weights, largest first, and the others with their reasons.

    families: weights that read the same tensor and may share their first factor, in the order of the graph.
    """

    source: str
    opset: int
    parameters: int
    bytes: int
    rows: tuple[WeightRow, ...]
    skips: tuple[Skip, ...]
    notes: tuple[str, ...] = ()
    shared_inputs: tuple[SharedInput, ...] = ()

    @property
    def share(self) -> float:
        """Share of all parameters in factorable weights."""
        return sum(row.site.parameters for row in self.rows) / max(self.parameters, 1)
