"""The story: read, find, calibrate, score, plan, rewrite, validate, save; and the three commands around it."""

from onnx_lowrank.pipeline.apply import apply
from onnx_lowrank.pipeline.compare import compare
from onnx_lowrank.pipeline.inspect import inspect
from onnx_lowrank.pipeline.optimize import optimize, reach
from onnx_lowrank.pipeline.pareto import Point, pareto, points_text
from onnx_lowrank.pipeline.study import Study
from onnx_lowrank.pipeline.subject import DataSources

__all__ = [
    "DataSources",
    "Point",
    "Study",
    "apply",
    "compare",
    "inspect",
    "optimize",
    "pareto",
    "points_text",
    "reach",
]
