"""Sensitivity: sites and samples -> curves, the cost and the predicted loss of every option."""

from __future__ import annotations

from onnx_lowrank.sensitivity.decompose import Decomposed, cost_curves, decompose, decompose_plain
from onnx_lowrank.sensitivity.measured_response import probe_curves

__all__ = ["Decomposed", "cost_curves", "decompose", "decompose_plain", "probe_curves"]
