"""A micro-model: one node, as it is or rewritten as a chain, on the data it really gets, its weights not warm.

In the whole model other weights pass through the caches between two uses of one; a node run over and over has its own
at hand. So a micro-model holds several copies of the node, each with weights of its own, together about as large as the
model's. (EfficientNet-lite0, plans at a quarter of the weights: predicted −1 % beside the measured time; +15 % with a
single copy, which also carries the whole cost of a call.) What follows the node (an activation that is fused to it) is
left out: it is the same for the node and for every chain, and only their difference enters a prediction.

It goes the way that the model itself goes: the sites of the copies are found in it, and `rewrite` factors them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.latency.capture import Captured
from onnx_lowrank.ops import Call, operator
from onnx_lowrank.rewrite import rewrite
from onnx_lowrank.schemes import Factors
from onnx_lowrank.sites import find_sites
from onnx_lowrank.types import Array, Chain, Choice, Cost, Option, Plan, Ranks

DATA = "data"
FIRST = "output0"
"""The only output that is fetched; onnxruntime computes the others all the same."""
MOST_COPIES = 16
COLD = 2**27
"""Bytes of weights that the copies need not exceed: more than the caches that a core has to itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One node and what it is given. steps: constant nodes between the stored weight and the node, in order.

    data: name of the activations; output: that of its output; weight: that of the stored weight. turned: what is
    factored is the transpose of what the node reads.
    """

    model: onnx.ModelProto
    node: onnx.NodeProto
    steps: tuple[onnx.NodeProto, ...]
    data: str
    output: str
    weight: str
    captured: Captured
    copies: int
    turned: bool = False

    @staticmethod
    def of(model: onnx.ModelProto, call: Call, weight: str, captured: Captured) -> Scene:
        """Return the scene of a call. Raises ModelError where its node cannot be taken out of the main graph."""
        node = next((node for node in model.graph.node if call.output in node.output), None)
        if node is None or operator(call).data(call) not in captured:
            raise ModelError(f"{call.name or call.output} is no node of the main graph")
        copies = copies_of(captured[weight].nbytes, model.ByteSize())
        data = operator(call).data(call)
        steps = _steps(model, node, captured)
        return Scene(model, node, steps, data, call.output, weight, captured, copies, call.turned)

    @property
    def input(self) -> Array:
        """The activations."""
        return self.captured[self.data]


def copies_of(weight_bytes: int, model_bytes: int) -> int:
    """Return how many copies of a weight come to about the size of the model, or to COLD; at most MOST_COPIES."""
    return max(1, min(MOST_COPIES, -(-min(model_bytes, COLD) // max(weight_bytes, 1))))


def _steps(model: onnx.ModelProto, node: onnx.NodeProto, captured: Captured) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes that make an input of `node` from stored weights alone, those that store one left out."""
    constant, made = set(captured.stored), {}
    for each in model.graph.node:
        if each.input and constant.issuperset(name for name in each.input if name):
            constant.update(each.output)
            made.update(dict.fromkeys(each.output, each))
    wanted: list[onnx.NodeProto] = []
    ahead = [name for name in node.input if name in made]
    while ahead:
        step = made[ahead.pop()]
        if step not in wanted:
            wanted.insert(0, step)
            ahead.extend(name for name in step.input if name in made)
    return tuple(wanted)


def dense_model(scene: Scene) -> onnx.ModelProto:
    """Return copies of the node as it is."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(scene.input.dtype)
    data = onnx.helper.make_tensor_value_info(DATA, kind, list(scene.input.shape))
    outputs = [onnx.helper.make_empty_tensor_value_info(f"output{index}") for index in range(scene.copies)]
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, Array] = {}
    for index in range(scene.copies):
        names = _names(scene, index)
        nodes.extend(_renamed(node, names) for node in (*scene.steps, scene.node))
        for old in [name for node in (*scene.steps, scene.node) for name in node.input]:
            if names[old] not in tensors and old and old != scene.data and old not in _made(scene):
                array = scene.captured[old]
                tensors[names[old]] = _other(array, index) if old == scene.weight else array
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()]
    model = onnx.ModelProto(ir_version=max(scene.model.ir_version, 4), opset_import=scene.model.opset_import)
    model.graph.CopyFrom(onnx.helper.make_graph(nodes, "micro", [data], outputs, stored))
    return model


def chain_model(scene: Scene, chain: Chain, scheme: str, ranks: Ranks) -> onnx.ModelProto:
    """Return copies of the node rewritten as a chain. Raises ModelError where the copies are no sites."""
    dense, chain = dense_model(scene), chain.turned if scene.turned else chain
    found = find_sites(dense, multiple=1)
    sites = {f"weight{index}": index for index in range(scene.copies)}
    mine = [site for site in found.sites if site.weight in sites]
    if len(mine) != scene.copies:
        raise ModelError(f"{scene.node.op_type} {scene.node.name} cannot be factored on its own")
    choices = tuple(Choice(site.id, site.weight, Option(scheme, ranks, Cost())) for site in mine)
    factors: dict[tuple[str, str], Factors] = {
        (site.id, scheme): _Moved(scheme, chain, sites[site.weight]) for site in mine
    }
    return rewrite(dense, found, Plan(choices), factors)


def _made(scene: Scene) -> set[str]:
    return {name for step in scene.steps for name in step.output}


def _names(scene: Scene, index: int) -> Mapping[str, str]:
    """Return what a copy calls its tensors: data is shared, and so is all that is no weight of its own."""
    names = {name: f"shared.{name}" for node in (*scene.steps, scene.node) for name in node.input if name}
    names |= {name: f"step{index}.{name}" for name in _made(scene)}
    names |= {name: f"more{index}.{name}" for name in scene.node.output if name}
    return names | {scene.data: DATA, scene.weight: f"weight{index}", scene.output: f"output{index}", "": ""}


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    copy.input[:] = [names[name] for name in node.input]
    copy.output[:] = [names[name] for name in node.output]
    return copy


def _other(weight: Array, index: int) -> Array:
    """Return the same numbers in other places: of two equal weights onnxruntime keeps one, which then stays warm."""
    return np.roll(weight.reshape(-1), index).reshape(weight.shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """Factors of one copy: always the same chain, its numbers in other places."""

    scheme: str
    whole: Chain
    index: int

    def error(self, ranks: Ranks) -> float:
        """Return 0: nobody asks."""
        return 0.0

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain."""
        return Chain(tuple(replace(stage, weight=_other(stage.weight, self.index)) for stage in self.whole.stages))

    def dense(self, ranks: Ranks) -> Array:
        """Raise: only `chain` is needed."""
        raise NotImplementedError
