"""What calibration starts from, and the value that it gives: every site decomposed, and what its losses come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import onnx

from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.options import Options
from onnx_lowrank.plan.expected import expected_loss
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.correction import PlanCheck
from onnx_lowrank.sensitivity.decompose import Decomposed
from onnx_lowrank.sensitivity.selection import UNSELECTED, Selection
from onnx_lowrank.types import Array, Curve, Feed
from onnx_lowrank.weights.compensation import Compensation
from onnx_lowrank.weights.inventory import Inventory


class OpenModel(Protocol):
    """A model that is opened in onnxruntime. sha256: of the content of what was loaded, or of what replaces it."""

    @property
    def model(self) -> onnx.ModelProto:
        """The model under work."""

    @property
    def runner(self) -> Runner:
        """Its session, or that of the model it was made from."""

    @property
    def sha256(self) -> str:
        """The digest of its content."""


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationSetup:
    """All that calibration works on. batch: samples that may be run together."""

    opened: OpenModel
    samples: Samples
    inventory: Inventory
    objective: Objective
    options: Options
    observed: ObservedPositions
    batch: int

    def part(self, sites: Mapping[str, object]) -> CalibrationSetup:
        """Return the same for these sites alone."""
        chosen = tuple(site for site in self.inventory.sites if site.id in sites)
        return replace(self, inventory=replace(self.inventory, sites=chosen))


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """Every site decomposed. `fitted` samples gave the bases, the `score` feeds gave the errors.

    tails, slopes: see `JointCurves`; empty where nothing is joint. fallback: site id -> why it has no gradient.
    """

    decomposed: Decomposed
    observed: ObservedPositions
    samples: Samples
    objective: Objective
    fitted: int
    score: Sequence[Feed]
    batch: int
    joint: JointScores | None = None
    tails: Mapping[str, Array] = field(default_factory=dict)
    slopes: Mapping[str, Array] = field(default_factory=dict)
    fallback: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSetup:
    """All that predicted losses are measured, or checked, with. held_back: samples that nothing was fitted on."""

    model: onnx.ModelProto
    inventory: Inventory
    calibrated: Calibrated
    options: Options
    held_back: Sequence[Feed] = ()


@dataclass(frozen=True, slots=True)
class Probed:
    """Curves with losses. checks: whole plans, predicted and measured. selection: how to choose by them.

    held_back: whether the checks are on samples that nothing was fitted on.
    """

    curves: tuple[Curve, ...]
    checks: tuple[PlanCheck, ...] = ()
    selection: Selection = UNSELECTED
    held_back: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class SensitivityState:
    """Where the work stands: what was collected, and the curves to plan with.

    checks, selection: see `Probed`. source: where predicted losses come from, and how far they hold, in one sentence.
    compensation: how weights in few bits are rounded; None: to the nearest.
    """

    calibrated: Calibrated
    curves: tuple[Curve, ...]
    unit: str
    checks: tuple[PlanCheck, ...] = ()
    selection: Selection = UNSELECTED
    source: str = ""
    compensation: Compensation | None = None

    def expected(self, predicted: float) -> float:
        """Return the loss to be expected of a plan with a predicted one, by what whole plans were measured to lose."""
        measured = [(check.predicted, check.measured, check.deviation) for check in self.checks]
        return expected_loss(predicted, measured, self.selection.optimism)
