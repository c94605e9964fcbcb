"""Original against candidate on held-out samples."""

from onnx_lowrank.validate.findings import Comparison, within
from onnx_lowrank.validate.judge import Judge
from onnx_lowrank.validate.reference import KEPT_BYTES, Reference

__all__ = ["KEPT_BYTES", "Comparison", "Judge", "Reference", "within"]
