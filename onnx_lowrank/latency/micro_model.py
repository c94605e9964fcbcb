"""A micro-model: one node, as it is or rewritten as a chain, on the data it really gets, its weights not warm.

Weights with a shared first factor are timed together: all of their nodes, as they are and with the one first stage.

In the whole model other weights pass through the caches between two uses of one; a node run over and over has its own
at hand. So a micro-model holds several copies of the node, each with weights of its own, together about as large as the
model's. (EfficientNet-lite0, plans at a quarter of the weights: predicted −1 % beside the measured time; +15 % with a
single copy, which also carries the whole cost of a call.) What follows the node (an activation that is fused to it) is
left out: it is the same for the node and for every chain, and only their difference enters a prediction.

It goes the way that the model itself goes: the sites of the copies are found in it, and `rewrite` factors them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.large import proto_bytes
from onnx_lowrank.latency.node_inputs import Captured
from onnx_lowrank.ops import Call
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import ARITHMETIC, DENSE, OWN, Array, Chain, Choice, Cost, Form, Option, Plan, Ranks
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import RangeSamples

DATA = "data"
FIRST = "output0.0"
"""The only output that is fetched; onnxruntime computes the others all the same."""
Edges: TypeAlias = tuple[bool, bool]
"""Whether floats are read, and given, at what computes in integers."""
MOST_COPIES = 16
COLD = 2**27
"""Bytes of weights that the copies need not exceed: more than the caches that a core has to itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One node, or those of a shared input, and their inputs.

    transforms: constant nodes between stored weights and nodes, in order. data: name of the activations; outputs: those
    of the nodes' outputs; weights: those of the stored weights. transposed: what is factored is the transpose of what
    the node reads. edges: whether it surely reads floats, and gives some, where it computes in integers.
    """

    model: onnx.ModelProto
    nodes: tuple[onnx.NodeProto, ...]
    transforms: tuple[onnx.NodeProto, ...]
    data: str
    outputs: tuple[str, ...]
    weights: tuple[str, ...]
    captured: Captured
    copies: int
    transposed: bool = False
    edges: Edges = (False, False)

    @staticmethod
    def of(
        model: onnx.ModelProto,
        calls: Sequence[Call],
        weights: Sequence[str],
        captured: Captured,
        edges: Edges = (False, False),
    ) -> Scene:
        """Return the scene of calls on the same data. Raises ModelError where a node is not in the main graph."""
        nodes, transforms = [], dict[str, onnx.NodeProto]()
        data = calls[0].data
        for call in calls:
            node = next((node for node in model.graph.node if call.output in node.output), None)
            if node is None or data not in captured:
                raise ModelError(f"{call.name or call.output} is no node of the main graph")
            nodes.append(node)
            transforms |= {transform.output[0]: transform for transform in _transforms(model, node, captured)}
        copies = copies_of(sum(captured[weight].nbytes for weight in weights), proto_bytes(model))

        return Scene(
            model=model,
            nodes=tuple(nodes),
            transforms=tuple(transforms.values()),
            data=data,
            outputs=tuple(call.output for call in calls),
            weights=tuple(weights),
            captured=captured,
            copies=copies,
            transposed=calls[0].transposed,
            edges=edges,
        )

    @property
    def input(self) -> Array:
        """The activations."""
        return self.captured[self.data]


def copies_of(weight_bytes: int, model_bytes: int) -> int:
    """Return how many copies of a weight come to about the size of the model, or to COLD; at most MOST_COPIES."""
    return max(1, min(MOST_COPIES, -(-min(model_bytes, COLD) // max(weight_bytes, 1))))


def _transforms(model: onnx.ModelProto, node: onnx.NodeProto, captured: Captured) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes that make an input of `node` from stored weights alone, those that store one left out."""
    constant, producer = set(captured.stored), {}
    for candidate in model.graph.node:
        if candidate.input and constant.issuperset(name for name in candidate.input if name):
            constant.update(candidate.output)
            producer.update(dict.fromkeys(candidate.output, candidate))
    wanted: list[onnx.NodeProto] = []
    ahead = [name for name in node.input if name in producer]
    while ahead:
        step = producer[ahead.pop()]
        if step not in wanted:
            wanted.insert(0, step)
            ahead.extend(name for name in step.input if name in producer)
    return tuple(wanted)


def dense_model(scene: Scene, *, apart: bool = False) -> onnx.ModelProto:
    """Return copies of the nodes as they are. apart: each reads an input of its own, so what is done to it is, too."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(scene.input.dtype)
    copies = [_names(scene, index, apart=apart) for index in range(scene.copies)]
    read = dict.fromkeys(names[scene.data] for names in copies)
    data = [onnx.helper.make_tensor_value_info(name, kind, list(scene.input.shape)) for name in read]
    outputs = [onnx.helper.make_empty_tensor_value_info(names[o]) for names in copies for o in scene.outputs]
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, Array] = {}
    for index, names in enumerate(copies):
        nodes.extend(_renamed(node, names) for node in (*scene.transforms, *scene.nodes))
        for old in [name for node in (*scene.transforms, *scene.nodes) for name in node.input]:
            if names[old] not in tensors and old and old != scene.data and old not in _made(scene):
                array = scene.captured[old]
                tensors[names[old]] = _other(array, index) if old in scene.weights else array
    stored = [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in tensors.items()]
    model = onnx.ModelProto(ir_version=max(scene.model.ir_version, 4), opset_import=scene.model.opset_import)
    model.graph.CopyFrom(onnx.helper.make_graph(nodes, "micro", data, outputs, stored))
    return model


def chain_model(scene: Scene, chains: Sequence[Chain], form: Form) -> onnx.ModelProto:
    """Return copies of the nodes, each rewritten as its chain. Raises ModelError where the copies are no sites.

    form: the scheme, and how the numbers are stored. Integers are what convolutions read and give where their
    neighbours compute in integers, too, so that is what they do here but for the scene's edges; others round what they
    read, each for itself.
    """
    in_integers = ARITHMETIC[form.storage].activations if form.storage in ARITHMETIC else ""
    rounds, gives = scene.edges
    dense = dense_model(scene, apart=in_integers == "dynamic" or (in_integers == "static" and rounds))
    chains = [chain.transposed for chain in chains] if scene.transposed else chains
    inventory = find_sites(dense, multiple=1, rigid=form.storage != OWN)
    inventory = replace(inventory, ranged=RangeSamples([{value.name: scene.input for value in dense.graph.input}]))
    sites = {site.weight: site.id for site in inventory.sites}
    choices: list[Choice] = []
    factors: dict[tuple[str, str], Factors] = {}
    for index in range(scene.copies):
        names = [_names(scene, index)[weight] for weight in scene.weights]
        if not all(name in sites for name in names):
            raise ModelError(f"{scene.nodes[0].op_type} {scene.nodes[0].name} cannot be factored on its own")
        members = tuple(sites[name] for name in names)
        option = Option(form, Cost(), shared_input=members if len(members) > 1 else ())
        choices.extend(Choice(sites[name], name, option) for name in names)
        pairs = zip(members, chains, strict=True)
        factors |= {(m, form.scheme): _Moved(form.scheme, chain, index) for m, chain in pairs}
    made = rewrite(dense, inventory, Plan(tuple(choices)), factors)
    return _giving_integers(made) if in_integers == "static" and not gives else made


def _giving_integers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, changed in place, without what makes numbers of the integers that it gives."""
    outputs, giving = {value.name for value in model.graph.output}, {n.output[0]: n for n in model.graph.node}
    for name in outputs:
        if giving[name].op_type == "DequantizeLinear":
            giving[giving[name].input[0]].output[0] = name
            model.graph.node.remove(giving[name])
    return model


def _made(scene: Scene) -> set[str]:
    return {name for transform in scene.transforms for name in transform.output}


def _names(scene: Scene, index: int, *, apart: bool = False) -> Mapping[str, str]:
    """Return what a copy calls its tensors: data is shared, unless it is apart, and so is all but its own weights."""
    names = {name: f"shared.{name}" for node in (*scene.transforms, *scene.nodes) for name in node.input if name}
    names |= {name: f"step{index}.{name}" for name in _made(scene)}
    names |= {name: f"more{index}.{name}" for node in scene.nodes for name in node.output if name}
    names |= {weight: f"weight{index}.{place}" for place, weight in enumerate(scene.weights)}
    names |= {output: f"output{index}.{place}" for place, output in enumerate(scene.outputs)}
    return names | {scene.data: f"{DATA}{index}" if apart and index else DATA, "": ""}


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
class Whole:
    """Factors of a weight that stays whole: one chain of one stage."""

    whole: Chain
    scheme: str = DENSE

    def error(self, ranks: Ranks) -> float:
        """Return 0."""
        return 0.0

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain."""
        return self.whole

    def dense(self, ranks: Ranks) -> Array:
        """Return the weight."""
        return self.whole.stages[0].weight


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """Factors of one copy: always the same chain, its numbers in other places."""

    scheme: str
    whole: Chain
    index: int

    def error(self, ranks: Ranks) -> float:
        """Return 0: it is not used."""
        return 0.0

    def chain(self, ranks: Ranks) -> Chain:
        """Return the chain."""
        return Chain(tuple(replace(stage, weight=_other(stage.weight, self.index)) for stage in self.whole.stages))

    def dense(self, ranks: Ranks) -> Array:
        """Raise: only `chain` is needed."""
        raise NotImplementedError
