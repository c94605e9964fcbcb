"""Modes without gradients: factors by the inputs, or by the weights alone; losses measured by substitution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from onnx_lowrank.collection.input_moments import passes, stream_moments
from onnx_lowrank.progress import Progress
from onnx_lowrank.samples.splitting import apart
from onnx_lowrank.sensitivity.calibrated import Calibrated, CalibrationSetup, Probed, ProbeSetup
from onnx_lowrank.sensitivity.decompose import decompose
from onnx_lowrank.sensitivity.measured_response import PROBES, probe_curves
from onnx_lowrank.types import Curve

SCORED = 64
"""Calibration samples set aside to score ranks on, at most, where nothing is cross-fitted."""
PROBED = 32
"""Of those, the ones that substituted weights are measured on, at most."""


@dataclass(frozen=True, slots=True)
class OneSidedMode:
    """whiten: factors keep the outputs on calibration inputs; else they are those of the plain weight."""

    name: str
    help: str
    whiten: bool
    switches: frozenset[str] = frozenset({"--shared-input"})
    needs_gradients: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    layerwise: ClassVar[bool] = False
    measures: ClassVar[bool] = True

    @property
    def needs_data(self) -> bool:
        """Whether factors, or the ranks that are taken, depend on samples."""
        return self.whiten

    def calibrated(self, setup: CalibrationSetup, progress: Progress) -> Calibrated:
        """Return the sites decomposed: moments of samples to fit and to score on, site after site."""
        options, inventory, observed, batch = setup.options, setup.inventory, setup.observed, setup.batch
        fit, score = (setup.samples.subset(part).feeds for part in apart(len(setup.samples), SCORED))
        total = passes(inventory, observed, batch) * (len(fit) + len(score))
        with progress.step("calibrating", total) as advance:
            moments = stream_moments(
                setup.opened.model, inventory, observed, fit, score, options, batch=batch, progress=advance
            )
            decomposed = decompose(inventory, observed, moments, whiten=self.whiten, multiple=options.rank_multiple)
        return Calibrated(decomposed, observed, setup.samples, setup.objective, len(fit), score, batch)

    def probed(self, setup: ProbeSetup, progress: Progress) -> Probed:
        """Return the curves with the losses that substitution measures."""
        return Probed(measured_curves(setup, setup.calibrated.decomposed.curves, progress))

    def source_of_losses(self, probed: Probed) -> str:
        """Say where the predicted losses come from."""
        return "measured by substituting weights"


def measured_curves(setup: ProbeSetup, curves: tuple[Curve, ...], progress: Progress) -> tuple[Curve, ...]:
    """Return curves with losses that follow from a few substitutions."""
    calibrated = setup.calibrated
    part = replace(calibrated.decomposed, curves=curves)
    with progress.step("probing sites", PROBES * len(curves)) as advance:
        return probe_curves(
            setup.model,
            setup.inventory,
            part,
            calibrated.score[:PROBED],
            calibrated.objective.divergence,
            setup.options,
            batch=calibrated.batch,
            progress=advance,
        )
