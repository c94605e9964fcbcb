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
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.decompose import Decomposed
from onnx_lowrank.types import Array, Curve, Feed
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
    """All that predicted losses are measured, or checked, with."""

    model: onnx.ModelProto
    inventory: Inventory
    calibrated: Calibrated
    options: Options


@dataclass(frozen=True, slots=True, eq=False)
class SensitivityState:
    """Where the work stands: what was collected, and the curves to plan with."""

    calibrated: Calibrated
    curves: tuple[Curve, ...]
    unit: str
