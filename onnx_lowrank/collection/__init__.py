"""Collection: run the model on samples and sum up, at every site, what the numerics need."""

from onnx_lowrank.collection.input_moments import passes, stream_moments
from onnx_lowrank.collection.positions import ObservedPositions, observe_positions
from onnx_lowrank.graph.editing import expose, overridable

__all__ = ["ObservedPositions", "expose", "observe_positions", "overridable", "passes", "stream_moments"]
