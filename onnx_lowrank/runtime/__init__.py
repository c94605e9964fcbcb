"""onnxruntime and the user's own code: sessions, batches, timing."""

from onnx_lowrank.runtime.runner import ORT_ERRORS, Runner, TensorSpec, first_line, runs_on_cpu

__all__ = ["ORT_ERRORS", "Runner", "TensorSpec", "first_line", "runs_on_cpu"]
