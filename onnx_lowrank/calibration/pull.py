"""Wᵀ g of one convolution, in onnxruntime: what of the loss's gradient its input gets through it alone."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.gradient import build_gradient
from onnx_lowrank.ops import Call
from onnx_lowrank.runtime import Runner
from onnx_lowrank.types import Array


class Pull:
    """Wᵀ g of a convolution: its gradient with respect to its own input, whatever else reads that."""

    def __init__(self, call: Call, weight: Array, provider: str, threads: int) -> None:
        attributes = {k: v for k, v in call.attributes.items() if v is not None}
        node = onnx.helper.make_node(call.op, ["x", "w"], ["y"], "conv", **attributes)
        channels = weight.shape[1] * int(attributes.get("group", 1))
        dims: list[int | None] = [None, channels, *(None for _ in weight.shape[2:])]
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [node],
            "pull",
            [value("x", onnx.TensorProto.FLOAT, dims)],
            [value("y", onnx.TensorProto.FLOAT, [None] * weight.ndim)],
            [onnx.numpy_helper.from_array(weight, "w")],
        )
        opset = onnx.helper.make_opsetid("", max(call.opset, 13))
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
        built = build_gradient(model, ["x"], ["y"])
        self._seed, self._gradient = built.seeds["y"], built.gradients["x"]
        for output in [o for o in built.model.graph.output if o.name != self._gradient]:
            built.model.graph.output.remove(output)  # so that nothing is computed for it
        self._runner = Runner(built.model, provider=provider, threads=threads, outputs=[self._gradient])

    def run(self, x: Array, gradient: Array) -> Array:
        """Return ∂L/∂x, the shape of x."""
        return self._runner.run({"x": np.asarray(x, np.float32), self._seed: np.asarray(gradient, np.float32)})[
            self._gradient
        ]
