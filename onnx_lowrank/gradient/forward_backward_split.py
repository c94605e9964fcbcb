"""Cut a gradient graph in two, so that the loss can be computed between forward and backward: no second forward run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnx_lowrank.gradient.build import GradientGraph
from onnx_lowrank.graph.traversal import reads

SHAPE_ONLY = frozenset(
    {"Shape", "Size", "Concat", "Slice", "Gather", "Reshape", "Squeeze", "Unsqueeze"}
    | {"Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "Equal", "Not", "NonZero", "Where"}
)
"""In these the rules compute with shapes: that is done on the way forward, and no tensor is kept for its shape."""


@dataclass(frozen=True, slots=True)
class SplitGradient:
    """A forward model and a backward model.

    forward: the model's inputs -> its outputs, the differentiated ones, `keep`, and the residuals.
    backward: seeds and residuals -> gradients.
    residuals: what the forward run hands to the backward run.
    """

    forward: ModelProto
    backward: ModelProto
    residuals: tuple[str, ...]
    seeds: Mapping[str, str]
    gradients: Mapping[str, str]


def split_gradient(graph: GradientGraph, keep: Sequence[str] = ()) -> SplitGradient:
    """Return the two halves; `keep` names tensors of the forward graph that its run is to return as well."""
    source = graph.model.graph
    weights = {tensor.name: tensor for tensor in source.initializer}
    first, second = _halves(graph, weights)
    made = {name for node in first for name in node.output} | {value.name for value in source.input}
    read = {name for node in second for name in reads(node)}
    seeds = set(graph.seeds.values())
    residuals = tuple(sorted((read & made) - seeds))
    gradients = set(graph.gradients.values())
    outputs = [value for value in source.output if value.name not in gradients]
    names = [*dict.fromkeys([*(value.name for value in outputs), *graph.seeds, *keep, *residuals])]
    declared = {value.name: value for value in outputs}
    forward = _model(
        graph.model,
        first,
        [value for value in source.input if value.name not in seeds],
        [declared.get(name) or helper.make_empty_tensor_value_info(name) for name in names],
        weights,
    )
    given = [value for value in source.input if value.name in seeds]
    backward = _model(
        graph.model,
        second,
        [*given, *(helper.make_tensor_value_info(name, graph.elems[name], None) for name in residuals)],
        [value for value in source.output if value.name in gradients],
        weights,
    )
    return SplitGradient(forward, backward, residuals, graph.seeds, graph.gradients)


def _halves(graph: GradientGraph, weights: Mapping[str, TensorProto]) -> tuple[list[NodeProto], list[NodeProto]]:
    """The model's own nodes with the shape arithmetic, and the rest."""
    late = set(graph.seeds.values())
    shapes: set[str] = set()
    first, second = [], []
    for node in graph.model.graph.node:
        if node.name not in graph.backward or not node.name:
            first.append(node)
            continue
        computed = [name for name in node.input if name and name not in weights]
        begins = node.op_type in ("Shape", "Size") and not any(name in late for name in computed)
        goes_on = bool(computed) and all(name in shapes for name in computed)
        if node.op_type in SHAPE_ONLY and (begins or goes_on):
            first.append(node)
            shapes.update(node.output)
        else:
            second.append(node)
            late.update(node.output)
    return first, second


def _model(
    source: ModelProto,
    nodes: Sequence[NodeProto],
    inputs: Iterable[ValueInfoProto],
    outputs: Iterable[ValueInfoProto],
    weights: Mapping[str, TensorProto],
) -> ModelProto:
    model = ModelProto(ir_version=source.ir_version, producer_name=source.producer_name)
    model.opset_import.extend(source.opset_import)
    model.graph.name = source.graph.name
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    model.graph.output.extend(outputs)
    used = {name for node in nodes for name in reads(node)} | {value.name for value in model.graph.output}
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    return model
