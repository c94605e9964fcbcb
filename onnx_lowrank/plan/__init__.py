"""Plans: which option every site gets, for a budget or for a gate."""

from onnx_lowrank.plan.baselines import alds, energy, paper_compact, paper_lossless
from onnx_lowrank.plan.compact import compact
from onnx_lowrank.plan.interlayer import interlayer, joint_rise
from onnx_lowrank.plan.knapsack import solve
from onnx_lowrank.plan.lossless import lossless
from onnx_lowrank.plan.problem import Problem
from onnx_lowrank.plan.sequence import fixed_sequence
from onnx_lowrank.plan.signed import agreed, signed

__all__ = [
    "Problem",
    "agreed",
    "alds",
    "compact",
    "energy",
    "fixed_sequence",
    "interlayer",
    "joint_rise",
    "lossless",
    "paper_compact",
    "paper_lossless",
    "signed",
    "solve",
]
