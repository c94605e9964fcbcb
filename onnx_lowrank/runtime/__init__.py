"""onnxruntime and the user's own code: sessions, batches, timing."""

from onnx_lowrank.runtime.runner import DEFAULT, ORT_ERRORS, Runner, TensorSpec, first_line, runs_on_cpu

__all__ = ["DEFAULT", "ORT_ERRORS", "Runner", "TensorSpec", "first_line", "runs_on_cpu"]
