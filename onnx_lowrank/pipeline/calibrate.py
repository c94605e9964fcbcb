"""From calibration samples to curves: see `onnx_lowrank.sensitivity.measure`."""

from onnx_lowrank.sensitivity.calibrated import Calibrated
from onnx_lowrank.sensitivity.measure import calibrate, calibrate_on, kind_of, objective_of, predicted_notes, probe

__all__ = ["Calibrated", "calibrate", "calibrate_on", "kind_of", "objective_of", "predicted_notes", "probe"]
