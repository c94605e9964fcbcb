"""The story: read, find, calibrate, score, plan, rewrite, validate, save; and the three commands around it."""

from onnx_lowrank.pipeline.apply import apply
from onnx_lowrank.pipeline.compare import Comparison, compare
from onnx_lowrank.pipeline.inspect import Inspection, WeightRow, inspect
from onnx_lowrank.pipeline.optimize import optimize
from onnx_lowrank.pipeline.subject import DataSources

__all__ = ["Comparison", "DataSources", "Inspection", "WeightRow", "apply", "compare", "inspect", "optimize"]
