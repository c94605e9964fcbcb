"""Continuation: see `onnx_lowrank.sensitivity.continuation`."""

from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.sensitivity.continuation import go_on, shrunken

__all__ = ["SensitivityState", "go_on", "shrunken"]
