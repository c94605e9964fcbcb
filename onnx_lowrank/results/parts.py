"""The parts of a result, each a value of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnx_lowrank.goals import Goal
from onnx_lowrank.graph.model_io import Level
from onnx_lowrank.metrics.divergence import DivergenceKind
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.sensitivity.correction import PlanCheck
from onnx_lowrank.types import Certificate, Cost, Curve, Plan, Site, Skip, Verdict


@dataclass(frozen=True, slots=True)
class Size:
    """parameters: elements of all weights; bytes: of the file(s); macs: for one sample, 0 where unknown.

    milliseconds: a sample of median size, 0 unless latency is the goal: measured for the original, predicted for plans.
    """

    parameters: int
    bytes: int
    macs: float = 0.0
    milliseconds: float = 0.0

    @property
    def cost(self) -> Cost:
        """The same as what sites cost."""
        return Cost(self.parameters, self.bytes, self.macs, self.milliseconds)


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan that was measured on the validation samples."""

    plan: Plan
    verdict: Verdict
    size: Size


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that competed to be the most accurate, on the samples that choose: its gain over the original.

    basis: where its factors come from; single: one weight alone is factored; kept: share of the factorable parameters.
    gain, error: of the metric, and its standard error, on so many samples; finalist: measured on all of them.
    """

    basis: str
    single: bool
    kept: float
    gain: float
    error: float
    samples: int
    finalist: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A model that factoring with more behind it is compared with: FACTORED, LABELS or INT8 (of the original), or BOTH.

    Judged against the original like the whole; `test` and `latency` where both steps together passed.
    """

    name: str
    size: Size
    verdict: Verdict
    test: Verdict | None = None
    latency: Timing | None = None


FACTORED, LABELS, INT8, BOTH = "factored alone", "labels alone", "int8 alone", "both"
"""What the steps of a model with label fits or int8 behind its factors are called."""


@dataclass(frozen=True, slots=True)
class Original:
    """The input model. `files`: never overwritten; none where it was an object. `held_to`: see `Level`."""

    source: str
    sha256: str
    size: Size
    files: tuple[Path, ...] = ()
    held_to: Level = Level.FULL


@dataclass(frozen=True, slots=True)
class Request:
    """The request. metric: the one that judged, and why; divergence: the loss that sensitivity predicted.

    refitted_on: on how many samples at most the last factors of the result were refitted; 0: they were not.
    """

    goal: Goal
    options: Options
    metric: str = ""
    divergence: DivergenceKind = "relative-l2"
    refitted_on: int = 0


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was measured: weights, curves, all plans in order, notes, seconds by step.

    checks: what whole plans were predicted and measured to lose, on calibration samples.
    candidates: plans that competed to be the most accurate; expected_gain: what choosing one gains, cross-validated.
    warnings are shown beside every claim.
    """

    sites: tuple[Site, ...] = ()
    skips: tuple[Skip, ...] = ()
    curves: tuple[Curve, ...] = ()
    checks: tuple[PlanCheck, ...] = ()
    trials: tuple[Trial, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    expected_gain: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of the model that was made, or of what came nearest.

    verdict: on the model as reloaded from disk. test: likewise, on samples that nothing was chosen on. latency: the
    saved model's, or that of the fastest plan where none was fast enough. steps: with int8 behind the factors what
    each of both does, on the same samples.
    """

    verdict: Verdict | None = None
    test: Verdict | None = None
    latency: Timing | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """The smaller model's plan and size, what its file claims, and where it was written."""

    plan: Plan
    size: Size
    certificate: Certificate | None = None
    output: Path | None = None
