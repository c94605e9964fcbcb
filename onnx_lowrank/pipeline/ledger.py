"""What a run has seen so far: a value that grows from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.goals import Gate
from onnx_lowrank.pipeline.session import Session
from onnx_lowrank.pipeline.speed_goal import Slow
from onnx_lowrank.results.parts import Candidate, Size, Trial
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.types import Curve
from onnx_lowrank.validation.rules import rule_of


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """trials: plans measured, in order. slow: those that held and were not fast enough. curves: the first planned on.

    candidates, expected_gain: see `Findings`. milliseconds: of the original, where time counts; untimed: weights
    without a time of their own; notes: the rest.
    """

    trials: tuple[Trial, ...] = ()
    slow: tuple[Slow, ...] = ()
    curves: tuple[Curve, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    expected_gain: float | None = None
    milliseconds: float = 0.0
    untimed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def trying(self, trials: Sequence[Trial]) -> Ledger:
        """Return the ledger with more trials."""
        return replace(self, trials=(*self.trials, *trials))

    def slower(self, slow: Slow) -> Ledger:
        """Return the ledger with another plan that was not fast enough."""
        return replace(self, slow=(*self.slow, slow))

    def noting(self, *notes: str) -> Ledger:
        """Return the ledger with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def ended(self, gate: Gate) -> bool:
        """Whether a sequence of tests has ended: a plan could not be certified."""
        return rule_of(gate).ends and bool(self.trials) and not self.trials[-1].verdict.passed


def size_before(session: Session, state: SensitivityState | None = None, milliseconds: float = 0.0) -> Size:
    """Return the original's size; its MACs are known once something was collected."""
    macs = 0.0 if state is None else state.calibrated.observed.macs
    return Size(session.inventory.parameters, session.loaded.bytes, macs, milliseconds)
