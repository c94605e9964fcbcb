"""Executors: pieces of work done by other processes, here or on a cluster, their results in order."""

from onnx_lowrank.executors.executor import Pool, Work, in_order
from onnx_lowrank.executors.kinds import opened

__all__ = ["Pool", "Work", "in_order", "opened"]
