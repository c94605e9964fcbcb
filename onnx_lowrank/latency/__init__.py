"""Milliseconds of every option, on the user's provider, threads and shapes: measured, not derived from MACs."""

from onnx_lowrank.latency.stopwatch import Stopwatch, Timed

__all__ = ["Stopwatch", "Timed"]
