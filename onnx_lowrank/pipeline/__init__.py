"""The story: read, find, calibrate, score, plan, rewrite, validate, save; and the three commands around it."""

from onnx_lowrank.pipeline.analyze import analyze
from onnx_lowrank.pipeline.apply import apply
from onnx_lowrank.pipeline.compare import compare
from onnx_lowrank.pipeline.inspect import inspect
from onnx_lowrank.pipeline.loaded_model import DataSources
from onnx_lowrank.pipeline.optimize import meet_goal, optimize
from onnx_lowrank.pipeline.pareto import Point, pareto, points_text
from onnx_lowrank.pipeline.session import Session

__all__ = [
    "DataSources",
    "Point",
    "Session",
    "analyze",
    "apply",
    "compare",
    "inspect",
    "meet_goal",
    "optimize",
    "pareto",
    "points_text",
]
