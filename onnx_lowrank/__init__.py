"""Make an exported ONNX model smaller and faster by low-rank factorization, without training, with proof."""

from onnx_lowrank.errors import DataError, GoalError, LowRankError, MetricError, ModelError, PlanError, RuntimeProblem
from onnx_lowrank.goals import Compact, Gate, Goal, Lossless
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline import (
    DataSources,
    Point,
    Session,
    analyze,
    apply,
    compare,
    inspect,
    meet_goal,
    optimize,
    pareto,
)
from onnx_lowrank.results.analysis import Analysis
from onnx_lowrank.results.comparison import Comparison
from onnx_lowrank.results.inspection import Inspection, WeightRow
from onnx_lowrank.results.parts import Size, Step, Trial
from onnx_lowrank.results.result import Result
from onnx_lowrank.results.saved_plan import SavedPlan, read_plan
from onnx_lowrank.samples import RANDOM, RandomData, Samples, read
from onnx_lowrank.types import Interval, Plan, Site, Skip, Verdict, Why
from onnx_lowrank.version import __version__

__all__ = [
    "RANDOM",
    "Analysis",
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
    "Point",
    "RandomData",
    "Result",
    "Runtime",
    "RuntimeProblem",
    "Samples",
    "SavedPlan",
    "Session",
    "Site",
    "Size",
    "Skip",
    "Step",
    "Trial",
    "Verdict",
    "WeightRow",
    "Why",
    "__version__",
    "analyze",
    "apply",
    "compare",
    "inspect",
    "meet_goal",
    "optimize",
    "pareto",
    "read",
    "read_plan",
]
