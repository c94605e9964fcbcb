"""What every component of a chain of two stages does to the loss, sample by sample: for chains that are no projection.

With P = first · x and Q = lastᵀ g at the inner tensor, ⟨Γ_s, component i⟩ = Σ over its positions of P_i Q_i: one run of
the first stage forward and one of the last backward give it for all components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.gradient import build_gradient
from onnx_lowrank.ops import Call, write_chain
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Chain, Site
from onnx_lowrank.weights.inventory import Inventory


class ChainComponents:
    """The two runs for one call and one chain. Raises ValueError for a chain of other than two stages."""

    def __init__(self, call: Call, chain: Chain, runtime: Runtime) -> None:
        if len(chain.stages) != 2:
            raise ValueError(f"a chain of {len(chain.stages)} stages has no single inner tensor")
        self._groups = chain.stages[0].groups
        taken: dict[str, int] = {}

        def names(hint: str) -> str:
            taken[hint] = taken.get(hint, 0) + 1
            return f"{hint}~{taken[hint]}"

        named = [(stage, f"w{index}") for index, stage in enumerate(chain.stages)]
        tensors = {name: np.asarray(call.stored(stage), np.float32) for stage, name in named}
        bare = replace(call, name="", inputs=(call.data, "w"), outputs=())
        first, last = write_chain(bare, named, names).nodes
        self._data, self._inner, self._output = call.data, first.output[0], call.output
        stage = chain.stages[1]
        self._last = None if stage.owns or stage.groups > 1 else np.asarray(stage.weight.reshape(len(stage.weight), -1))
        value = onnx.helper.make_tensor_value_info
        rank, kind = chain.stages[0].weight.ndim, onnx.TensorProto.FLOAT
        channels = chain.stages[0].weight.shape[1] * self._groups
        nodes = [first] if self._last is not None else [first, last]
        read = {name for node in nodes for name in node.input}
        graph = onnx.helper.make_graph(
            nodes,
            "through",
            [value(self._data, kind, [None, channels, *[None] * (rank - 2)])],
            [value(node.output[0], kind, [None] * rank) for node in nodes],
            [
                onnx.numpy_helper.from_array(np.ascontiguousarray(a), name)
                for name, a in tensors.items()
                if name in read
            ],
        )
        opset = onnx.helper.make_opsetid("", max(call.opset, 13))
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
        self._seed = self._gradient = ""
        if self._last is None:
            model = self._backward(model)
        outputs = [name for name in (self._inner, self._gradient) if name]
        self._runner = Runner(model, runtime=runtime, outputs=outputs, arena=False)

    def _backward(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with the last stage's gradient: of a 1×1 it is a product of matrices, without a session."""
        built = build_gradient(model, [self._inner], [self._output])
        self._seed, self._gradient = built.seeds[self._output], built.gradients[self._inner]
        for output in [o for o in built.model.graph.output if o.name not in (self._gradient, self._inner)]:
            built.model.graph.output.remove(output)  # so that nothing is computed for it
        return built.model

    def run(self, x: Array, gradient: Array) -> Array:
        """Return (rows of x, r) Σ over positions, and over the first stage's groups, of P_i Q_i, float64."""
        given = {self._data: np.asarray(x, np.float32)}
        if self._last is None:
            given[self._seed] = np.asarray(gradient, np.float32)
        found = self._runner.run(given)
        P = _flat(found[self._inner])
        Q = _flat(found[self._gradient]) if self._last is None else self._last.T @ _flat(gradient).astype(np.float32)
        each = np.einsum("nrp,nrp->nr", P, Q, dtype=np.float64)
        return np.asarray(each.reshape(len(each), self._groups, -1).sum(1))


def _flat(array: Array) -> Array:
    """Return (rows, channels, positions)."""
    return array.reshape(*array.shape[:2], -1)


class ChainSessions:
    """The runs for many sites and chains, each made when it is asked for first and kept until `release`."""

    def __init__(self, inventory: Inventory, runtime: Runtime) -> None:
        self._inventory, self._runtime = inventory, runtime
        self._made: dict[tuple[str, int, int], ChainComponents] = {}

    def components(
        self, site: Site, chain: Callable[[], Chain], key: tuple[str, int], ends: Sequence[tuple[Array, Array]]
    ) -> Array:
        """Return (rows, r) ⟨Γ, component⟩ of every component of a chain of two stages, summed over the site's calls.

        ends: every call's input and gradient at the output, for the same rows; `key` names the chain, made only once.
        """
        total: Array | None = None
        for number, (call, (x, gradient)) in enumerate(zip(self._inventory.calls[site.id], ends, strict=True)):
            place = (*key, number)
            if place not in self._made:
                self._made[place] = ChainComponents(call, chain(), self._runtime)
            part = self._made[place].run(x, gradient)
            total = part if total is None else total + part
        if total is None:
            raise KeyError(site.id)
        return total

    def release(self) -> None:
        """Give the sessions up: those of the next fold are others."""
        self._made.clear()
