"""Original against candidate on held-out samples."""

from onnx_lowrank.validation.findings import Comparison, within
from onnx_lowrank.validation.judge import Judge
from onnx_lowrank.validation.reference import KEPT_BYTES, Reference

__all__ = ["KEPT_BYTES", "Comparison", "Judge", "Reference", "within"]
