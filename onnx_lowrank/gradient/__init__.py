"""Reverse mode on ONNX: from a forward graph to the graph of its gradient, run by onnxruntime."""

from onnx_lowrank.gradient.build import GradientGraph, build_gradient

__all__ = ["GradientGraph", "build_gradient"]
