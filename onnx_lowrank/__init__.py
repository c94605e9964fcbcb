"""Make an exported ONNX model smaller and faster by low-rank factorization, without training, with proof.

    import onnx_lowrank as lr

    result = lr.optimize("model.onnx", lr.DataSources(data="cal.npz", validation="val.npz"))
    if result:
        result.save("smaller.onnx")

optimize, analyze, inspect, compare, apply: each a command as well. Session: what is collected once for several goals,
with meet_goal and pareto. What they are asked: Compact or Lossless with a Gate, Options and Runtime. Every error is a
LowRankError. The types of results are attributes of this module, too.
"""

from onnx_lowrank import no_telemetry as no_telemetry  # before anything that imports onnxruntime
from onnx_lowrank.errors import DataError as DataError
from onnx_lowrank.errors import GoalError as GoalError
from onnx_lowrank.errors import LowRankError
from onnx_lowrank.errors import MetricError as MetricError
from onnx_lowrank.errors import ModelError as ModelError
from onnx_lowrank.errors import PlanError as PlanError
from onnx_lowrank.errors import RuntimeProblem as RuntimeProblem
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.goals import Goal as Goal
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline import DataSources, Session, analyze, apply, compare, inspect, meet_goal, optimize, pareto
from onnx_lowrank.pipeline import Point as Point
from onnx_lowrank.results.analysis import Analysis as Analysis
from onnx_lowrank.results.comparison import Comparison as Comparison
from onnx_lowrank.results.inspection import Inspection as Inspection
from onnx_lowrank.results.inspection import WeightRow as WeightRow
from onnx_lowrank.results.parts import Size as Size
from onnx_lowrank.results.parts import Step as Step
from onnx_lowrank.results.parts import Trial as Trial
from onnx_lowrank.results.result import Result as Result
from onnx_lowrank.results.saved_plan import SavedPlan as SavedPlan
from onnx_lowrank.results.saved_plan import read_plan as read_plan
from onnx_lowrank.samples import RANDOM, read
from onnx_lowrank.samples import RandomData as RandomData
from onnx_lowrank.samples import Samples as Samples
from onnx_lowrank.types import Interval as Interval
from onnx_lowrank.types import Plan as Plan
from onnx_lowrank.types import Site as Site
from onnx_lowrank.types import Skip as Skip
from onnx_lowrank.types import Verdict as Verdict
from onnx_lowrank.types import Why as Why
from onnx_lowrank.version import __version__

__all__ = [
    "RANDOM",
    "Compact",
    "DataSources",
    "Gate",
    "Lossless",
    "LowRankError",
    "Options",
    "Runtime",
    "Session",
    "__version__",
    "analyze",
    "apply",
    "compare",
    "inspect",
    "meet_goal",
    "optimize",
    "pareto",
    "read",
]
