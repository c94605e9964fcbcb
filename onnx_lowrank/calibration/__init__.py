"""Calibration: run the model on samples and collect, at every site, what the numerics need."""

from onnx_lowrank.calibration.collect import passes, stream_moments
from onnx_lowrank.calibration.expose import expose, overridable
from onnx_lowrank.calibration.observe import Observed, observe

__all__ = ["Observed", "expose", "observe", "overridable", "passes", "stream_moments"]
