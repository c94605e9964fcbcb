"""Reverse mode on ONNX: from a forward graph to the graph of its gradient, run by onnxruntime.

shapes = observed_ranks(model, sample)
graph = build_gradient(model, [site.id for site in sites], [final_activation(model, "probs").tensor], shapes=shapes)
runner = GradientRunner(graph)
found = runner.run(sample, lambda values: {logits: heads.sampled(values[logits], rng)})
"""

from onnx_lowrank.gradient import losses as heads
from onnx_lowrank.gradient.build import GradientGraph, build_gradient
from onnx_lowrank.gradient.final_activation import Final, final_activation
from onnx_lowrank.gradient.forward_backward_split import SplitGradient, split_gradient
from onnx_lowrank.gradient.gradient_runner import GradientRunner, Pass
from onnx_lowrank.gradient.straight_through import straightened
from onnx_lowrank.gradient.tensor_ranks import observed_ranks
from onnx_lowrank.gradient.to_float32 import widened

__all__ = [
    "Final",
    "GradientGraph",
    "GradientRunner",
    "Pass",
    "SplitGradient",
    "build_gradient",
    "final_activation",
    "heads",
    "observed_ranks",
    "split_gradient",
    "straightened",
    "widened",
]
