"""What a session computes once: values with names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.metrics import Measured
from onnx_lowrank.plan import Problem
from onnx_lowrank.schemes import Factors
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.types import Curve, FactorKey
from onnx_lowrank.validation import Judge
from onnx_lowrank.weights.compensation import Compensation


class Judges(NamedTuple):
    """whole: on all validation samples. preview: on a part, for what is hopeless even there; early: on a part, for what
    may be certified there. None: no part would do.
    """

    whole: Judge
    preview: Judge | None = None
    early: Judge | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """The original, metric and samples looked over before any work: what was measured, and what belongs on top."""

    measured: Measured
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Formatted:
    """What number formats add to a state; notes: on those that do not run here."""

    curves: tuple[Curve, ...]
    observed: ObservedPositions
    compensation: Compensation | None
    notes: tuple[str, ...]

    @staticmethod
    def of(state: SensitivityState, notes: tuple[str, ...]) -> Formatted:
        """Return what was added to a state."""
        return Formatted(state.curves, state.calibrated.observed, state.compensation, notes)

    def on(self, state: SensitivityState) -> SensitivityState:
        """Return a state with it; terms between weights are of their own types alone, and left out."""
        calibrated = replace(state.calibrated, observed=self.observed, tails={})
        return replace(state, calibrated=calibrated, curves=self.curves, compensation=self.compensation)


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """A rank-choice problem; milliseconds: of the original, 0 unless time is the resource; notes: what has no time."""

    problem: Problem
    milliseconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    """The factors that a plan is written with, and on how many samples at most the last ones were refitted; 0: not."""

    factors: dict[FactorKey, Factors]
    refitted_on: int = 0
