"""What every component of a chain of two stages does to the loss, sample by sample: for chains that are no projection.

With P = first · x and Q = lastᵀ g at the inner tensor, ⟨Γ_s, component i⟩ = Σ over its positions of P_i Q_i: one run of
the first stage forward and one of the last backward give it for all components.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.gradient import build_gradient
from onnx_lowrank.ops import Call, operator
from onnx_lowrank.runtime import Runner
from onnx_lowrank.types import Array, Chain


class Through:
    """The two runs for one call and one chain. Raises ValueError for a chain of other than two stages."""

    def __init__(self, call: Call, chain: Chain, provider: str, threads: int) -> None:
        if len(chain.stages) != 2:
            raise ValueError(f"a chain of {len(chain.stages)} stages has no single inner tensor")
        taken: dict[str, int] = {}

        def names(hint: str) -> str:
            taken[hint] = taken.get(hint, 0) + 1
            return f"{hint}~{taken[hint]}"

        op = operator(call)
        named = [(stage, f"w{index}") for index, stage in enumerate(chain.stages)]
        tensors = {name: np.asarray(op.stored(call, stage), np.float32) for stage, name in named}
        bare = Call(call.op, "", (op.data(call), "w"), call.output, call.attributes, call.slot, call.opset, call.shape)
        first, last = op.write(bare, named, names).nodes
        inner = first.output[0]
        value = onnx.helper.make_tensor_value_info
        rank, kind = chain.stages[0].weight.ndim, onnx.TensorProto.FLOAT
        graph = onnx.helper.make_graph(
            [first, last],
            "through",
            [value(op.data(call), kind, [None, chain.stages[0].weight.shape[1], *[None] * (rank - 2)])],
            [value(name, kind, [None] * rank) for name in (inner, call.output)],
            [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()],
        )
        opset = onnx.helper.make_opsetid("", max(call.opset, 13))
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
        built = build_gradient(model, [inner], [call.output])
        self._data, self._inner = op.data(call), inner
        self._seed, self._gradient = built.seeds[call.output], built.gradients[inner]
        for output in [o for o in built.model.graph.output if o.name not in (self._gradient, inner)]:
            built.model.graph.output.remove(output)  # so that nothing is computed for it
        self._runner = Runner(built.model, provider=provider, threads=threads, outputs=[inner, self._gradient])

    def run(self, x: Array, gradient: Array) -> Array:
        """Return (rows of x, r) Σ over positions of P_i Q_i, float64."""
        found = self._runner.run({self._data: np.asarray(x, np.float32), self._seed: np.asarray(gradient, np.float32)})
        P, Q = (found[name].reshape(*found[name].shape[:2], -1) for name in (self._inner, self._gradient))
        return np.asarray(np.einsum("nrp,nrp->nr", P, Q, dtype=np.float64))
