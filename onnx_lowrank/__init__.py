"""Make an exported ONNX model smaller and faster by low-rank factorization, without training, with proof."""

__version__ = "0.1.0"

from onnx_lowrank.errors import (
    DataError,
    GoalError,
    LowRankError,
    MetricError,
    ModelError,
    PlanError,
    RuntimeProblem,
)
from onnx_lowrank.options import Compact, Gate, Goal, Lossless, Options
from onnx_lowrank.pipeline import Comparison, DataSources, Inspection, apply, compare, inspect, optimize
from onnx_lowrank.result import Result, Size, Trial
from onnx_lowrank.samples import Samples, read
from onnx_lowrank.saved_plan import SavedPlan, read_plan
from onnx_lowrank.types import Interval, Plan, Site, Skip, Verdict, Why

__all__ = [
    "Compact",
    "Comparison",
    "DataError",
    "DataSources",
    "Gate",
    "Goal",
    "GoalError",
    "Inspection",
    "Interval",
    "Lossless",
    "LowRankError",
    "MetricError",
    "ModelError",
    "Options",
    "Plan",
    "PlanError",
    "Result",
    "RuntimeProblem",
    "Samples",
    "SavedPlan",
    "Site",
    "Size",
    "Skip",
    "Trial",
    "Verdict",
    "Why",
    "apply",
    "compare",
    "inspect",
    "optimize",
    "read",
    "read_plan",
]
