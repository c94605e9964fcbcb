"""Plans: which option every site gets, for a budget or for a gate."""

from onnx_lowrank.plan.compact import compact
from onnx_lowrank.plan.knapsack import solve
from onnx_lowrank.plan.lossless import lossless
from onnx_lowrank.plan.problem import Problem

__all__ = ["Problem", "compact", "lossless", "solve"]
