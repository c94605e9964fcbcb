"""The inputs of a model's nodes on a typical sample: the arrays themselves, so that any operator can be run alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_lowrank.graph.editing import expose
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Feed
from onnx_lowrank.weights.inventory import Inventory


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """Arrays by tensor name: weights as the model stores them, everything else as one sample made it."""

    stored: Mapping[str, onnx.TensorProto]
    seen: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name in self.stored:
            return tensor_array(self.stored[name])
        return self.seen[name]

    def __contains__(self, name: object) -> bool:
        return name in self.stored or name in self.seen


def typical(feeds: Sequence[Feed]) -> Feed:
    """Return the sample of median size, the first of equals: it represents all where lengths vary."""
    sizes = [sum(array.size for array in feed.values()) for feed in feeds]
    return feeds[sizes.index(sorted(sizes)[(len(sizes) - 1) // 2])]


def capture(model: onnx.ModelProto, inventory: Inventory, feed: Feed, runtime: Runtime) -> Captured:
    """Return what every call of every site in the main graph reads on `feed`. Raises RuntimeProblem."""
    calls = [call for site in inventory.sites for call in inventory.calls[site.id]]
    names = list(dict.fromkeys(name for call in calls for name in call.inputs if name))
    in_graph = {name for node in model.graph.node for name in node.output}
    in_graph |= {tensor.name for tensor in model.graph.initializer}
    wanted = [name for name in names if name in in_graph and name not in inventory.weights and name not in feed]
    runner = Runner(expose(model, wanted), runtime=runtime, outputs=wanted, optimize=False)
    inputs = {name: np.asarray(feed[name]) for name in names if name in feed}
    return Captured(inventory.weights, inputs | runner.run(feed))


def has_subnormals(array: Array) -> bool:
    """Return whether an array holds subnormal numbers, with which processors take up to a hundred times as long."""
    if not np.issubdtype(array.dtype, np.floating):
        return False
    size = np.abs(array)
    return bool(((size > 0) & (size < np.finfo(array.dtype).tiny)).any())
