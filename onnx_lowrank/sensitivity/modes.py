"""The sensitivity modes: where factors come from, and how the loss of an option is predicted or measured.

A new mode is a value here (and its name and switches in `options.SENSITIVITIES`).
"""

from __future__ import annotations

from typing import Protocol

from onnx_lowrank.errors import GoalError
from onnx_lowrank.options import Options, unknown_sensitivity
from onnx_lowrank.progress import Progress
from onnx_lowrank.sensitivity.calibrated import Calibrated, CalibrationSetup, Probed, ProbeSetup
from onnx_lowrank.sensitivity.gradient_mode import GradientMode
from onnx_lowrank.sensitivity.one_sided import OneSidedMode


class SensitivityMode(Protocol):
    """From a setup to decomposed sites, and from those to curves with losses."""

    @property
    def name(self) -> str:
        """What `--sensitivity` says."""

    @property
    def help(self) -> str:
        """What it does, without a full stop."""

    @property
    def switches(self) -> frozenset[str]:
        """The switches that have a meaning with it, among those that have one with some modes only."""

    @property
    def needs_gradients(self) -> bool:
        """Whether samples are run backward."""

    @property
    def needs_data(self) -> bool:
        """Whether factors, or the ranks that are taken, depend on samples."""

    @property
    def measures(self) -> bool:
        """Whether losses are measured by substitution, or checked so."""

    @property
    def labelled(self) -> bool:
        """Whether the loss always has labels (or decisions for labels), and a first-order term."""

    @property
    def layerwise(self) -> bool:
        """Whether ranks are chosen layer by layer within γ, instead of for all sites together."""

    def calibrated(self, setup: CalibrationSetup, progress: Progress) -> Calibrated:
        """Return the sites decomposed."""

    def probed(self, setup: ProbeSetup, progress: Progress) -> Probed:
        """Return the curves with losses, and how far predictions hold."""

    def source_of_losses(self, probed: Probed) -> str:
        """Say where the predicted losses come from."""


INPUTS = OneSidedMode("inputs", "factors that keep outputs on calibration inputs (whitened)", whiten=True)
JOINT = GradientMode(
    "joint",
    "factors and ranks by the loss's own curvature",
    metric="joint",
    fallback=INPUTS,
    switches=frozenset({"--exponents", "--objective", "--signed", "--inter-layer", "--continuation", "--shared-input"}),
)
MODES: tuple[SensitivityMode, ...] = (
    JOINT,
    INPUTS,
    OneSidedMode("weights", "plain SVD", whiten=False),
    GradientMode(
        "paper",
        "first order only, layer by layer (arXiv 2412.06867)",
        metric="weights",
        fallback=INPUTS,
        measures=False,
        labelled=True,
        layerwise=True,
        switches=frozenset({"--signed", "--loss"}),
    ),
)
HELP = " ".join(f"{mode.name}: {mode.help}." for mode in MODES)
"""One sentence on every mode."""


def mode_named(name: str) -> SensitivityMode:
    """Return a mode. Raises GoalError for a name that none has."""
    for mode in MODES:
        if mode.name == name:
            return mode
    raise GoalError(unknown_sensitivity(name))


def mode_of(options: Options) -> SensitivityMode:
    """Return the mode that was asked for."""
    return mode_named(options.sensitivity)
