"""From a forward graph to the graph of its gradient: reverse mode over the slice between targets and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from onnx_lowrank.gradient.emitter import Dims, Emitter, NoRule, Value
from onnx_lowrank.gradient.forward import Forward
from onnx_lowrank.gradient.reachability import Reachable, reachable_of, take_apart
from onnx_lowrank.gradient.rule_context import RuleContext
from onnx_lowrank.gradient.rules.table import rule_of
from onnx_lowrank.gradient.simplify import simplify
from onnx_lowrank.gradient.tensor_ops import total
from onnx_lowrank.gradient.wide_pads import apart_from_wide_pads
from onnx_lowrank.graph.traversal import reads

NO_PATH = "no differentiable path"


@dataclass(frozen=True, slots=True)
class GradientGraph:
    """A graph that runs the model and then its gradient.

    model: inputs are the model's and a seed for every differentiated output; outputs are the model's, the
        differentiated ones, and the gradients.
    seeds: differentiated output -> input that takes the loss's gradient there (same shape and type).
    gradients: target -> output that holds its gradient; a share stands under `through(data, output)`.
    unreached: target or share -> why it has none, naming the operator without a rule.
    backward: the nodes, by name, that only the gradient needs.
    elems: tensor -> element type.
    """

    model: ModelProto
    seeds: Mapping[str, str]
    gradients: Mapping[str, str]
    unreached: Mapping[str, str]
    backward: frozenset[str]
    elems: Mapping[str, int]


def share_name(data: str, output: str) -> str:
    """Return the name of a share: what `data` gets of the loss's gradient by the node that makes `output` alone."""
    return f"{data} through {output}"


def build_gradient(
    model: ModelProto,
    targets: Sequence[str],
    outputs: Sequence[str] | None = None,
    *,
    shapes: Mapping[str, Dims] | None = None,
    keep: Sequence[str] = (),
    shares: Mapping[str, str] = MappingProxyType({}),
) -> GradientGraph:
    """Return the graph that computes ∂loss/∂target for every target that a gradient reaches.

    The loss enters by its gradient at `outputs` (any float tensors of the graph; default: all float outputs).
    `shapes` are observed ones, tensor -> one entry an axis: a number where every run has this extent, else None
    (`observed_ranks` makes them). They come before what shape inference finds. Tensors named in `keep` stay what they
    are, to be returned by a `GradientRunner`. `shares`: the first output of a node -> one of its inputs, of whose
    gradient the node's own part is returned, whoever else reads that input. The model is not changed.
    """
    try:
        forward = Forward(model, shapes)
    except NoRule as refusal:
        asked = [*targets, *(share_name(data, output) for output, data in shares.items())]
        return GradientGraph(model, {}, {}, dict.fromkeys(asked, str(refusal)), frozenset(), {})
    ends = [*targets, *shares.values()]
    chosen = [v.name for v in forward.outputs if forward.is_float(v.name)] if outputs is None else list(outputs)
    simplify(forward, [*ends, *shares, *chosen, *keep])
    take_apart(forward, ends, chosen)
    backward = _Backward(forward, targets, chosen, shares)
    backward.run()
    return backward.result()


class _Backward:
    """One walk from the outputs to the targets."""

    def __init__(
        self, forward: Forward, targets: Sequence[str], outputs: Sequence[str], shares: Mapping[str, str]
    ) -> None:
        self.forward = forward
        self.targets = list(dict.fromkeys(targets))
        self.shares = shares
        self.shared: dict[str, Value] = {}
        self.emit = Emitter(forward.names, forward.opset, "gradient/")
        self.reachable: Reachable = reachable_of(forward, [*self.targets, *shares.values()], outputs)
        self.seeds: dict[str, str] = {}
        self.parts: dict[str, list[Value]] = {}
        self.blocked: dict[str, str] = {}
        for name in dict.fromkeys(outputs):
            self.seeds[name] = forward.names(f"grad@{name}")
            self.parts[name] = [Value(self.emit, self.seeds[name], forward.elem(name), forward.dims(name))]

    def run(self) -> None:
        """Visit every node of the slice once, last first."""
        for node in reversed(self.forward.nodes):
            if self.reachable.holds(node):
                reason = next((self.blocked[name] for name in node.output if name in self.blocked), None)
                if reason is None and any(name in self.parts for name in node.output):
                    reason = self._differentiate(node)
                if reason is not None:
                    self._block(node, reason)

    def _differentiate(self, node: NodeProto) -> str | None:
        """Add the node's share to the gradients at its inputs. Return why not, where it has no rule."""
        what = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        rule = rule_of(node)
        if rule is None:
            return f"no rule for {what}"
        grads = [self.gradient(name) for name in node.output]
        wanted = [self._wanted(name) for name in node.input]
        try:
            gradients = rule(RuleContext(self.forward, self.emit, node, grads, wanted))
        except NoRule as refusal:
            return f"no rule for this {what}: {refusal}"
        for name, wants, value in zip(node.input, wanted, gradients, strict=False):
            if wants and value is not None:
                self.parts.setdefault(name, []).append(value)
                if self.shares.get(node.output[0]) == name:
                    self.shared[node.output[0]] = value
        return None

    def gradient(self, name: str) -> Value | None:
        """The gradient at a tensor, its parts added up once."""
        parts = self.parts.get(name)
        if not parts:
            return None
        if len(parts) > 1:
            self.parts[name] = [total(parts)]
        return Value(self.emit, self.parts[name][0].name, self.forward.elem(name), self.forward.dims(name))

    def _wanted(self, name: str) -> bool:
        return name in self.reachable.below and self.forward.is_float(name)

    def _block(self, node: NodeProto, reason: str) -> None:
        """What is above an operator without a rule has no whole gradient, whatever other paths there are."""
        for name in reads(node):
            if self._wanted(name):
                self.blocked.setdefault(name, reason)

    def _named(self, gradients: Mapping[str, Value]) -> dict[str, str]:
        """Return target -> the output of its gradient: what makes it is renamed, a seed is copied.

        All in one pass over the nodes: a walk for every target would be quadratic in the depth of the model.
        """
        made = {name for node in self.emit.nodes for name in node.output}
        renamed: dict[str, str] = {}
        names: dict[str, str] = {}
        for target, value in gradients.items():
            if value.name in renamed:  # of a tensor with one reader the share is the gradient
                names[target] = renamed[value.name]
                continue
            name = names[target] = self.forward.names(f"gradient@{target}")
            self.emit.elems[name], self.emit.dims[name] = value.elem, value.dims
            if value.name in made:
                renamed[value.name] = name
            else:
                self.emit.nodes.append(helper.make_node("Identity", [value.name], [name], name=name))
        for node in self.emit.nodes:
            for slots in (node.input, node.output):
                for index, old in enumerate(slots):
                    if old in renamed:
                        slots[index] = renamed[old]
        return names

    def result(self) -> GradientGraph:
        """The finished graph."""
        reached: dict[str, Value] = {}
        unreached: dict[str, str] = {}
        for target in self.targets:
            gradient = self.gradient(target)
            if target in self.blocked:
                unreached[target] = self.blocked[target]
            elif gradient is None:
                unreached[target] = NO_PATH
            else:
                reached[target] = gradient
        for output, data in self.shares.items():
            if output in self.shared:
                reached[share_name(data, output)] = self.shared[output]
            else:
                reason = self.blocked.get(output) or self.blocked.get(data) or NO_PATH
                unreached[share_name(data, output)] = reason
        gradients = self._named(reached)
        model = self._model(gradients)
        present = {node.name for node in model.graph.node}
        backward = frozenset(node.name for node in self.emit.nodes if node.name in present) - self._forward_needs(model)
        tensors = {name for node in model.graph.node for name in (*node.input, *node.output) if name}
        elems = {name: self.emit.elems.get(name) or self.forward.elem(name) for name in tensors}
        return GradientGraph(model, self.seeds, gradients, unreached, backward, elems)

    def _forward_needs(self, model: ModelProto) -> set[str]:
        """Nodes made here that the model's own outputs depend on: the padding in front of a convolution."""
        outputs = {value.name for value in self.forward.outputs} | set(self.seeds)
        return {node.name for node in _needed(model.graph.node, outputs)}

    def _model(self, gradients: Mapping[str, str]) -> ModelProto:
        forward = self.forward
        own = {value.name for value in forward.outputs}
        likes = {share_name(data, output): data for output, data in self.shares.items()}
        named = {name: target for target, name in gradients.items()}
        outputs = [
            *forward.outputs,
            *(_info(forward, name, name) for name in self.seeds if name not in own),
            *(_info(forward, likes.get(target, target), name) for name, target in named.items()),
        ]
        nodes = _needed([*forward.nodes, *self.emit.nodes], {value.name for value in outputs})
        nodes = apart_from_wide_pads(nodes, lambda name: self.emit.dims.get(name) or forward.dims(name), self.emit)
        model = ModelProto(ir_version=max(int(forward.source.ir_version), 8), producer_name="onnx-lowrank")
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in forward.imports())
        graph = model.graph
        graph.name = "gradient"
        graph.node.extend(nodes)
        graph.input.extend(forward.inputs)
        graph.input.extend(_info(forward, name, seed) for name, seed in self.seeds.items())
        graph.output.extend(outputs)
        used = {name for node in nodes for name in reads(node)} | {value.name for value in outputs}
        for name, tensor in (*forward.weights.items(), *self.emit.constants.items()):
            if name in used:
                graph.initializer.append(tensor)
                graph.initializer[-1].name = name
        return model


def _info(forward: Forward, like: str, name: str) -> ValueInfoProto:
    """The type of a tensor of the forward graph under another name; of its shape only the rank, if that is known."""
    dims = forward.dims(like)
    return helper.make_tensor_value_info(name, forward.elem(like), None if dims is None else [None] * len(dims))


def _needed(nodes: Sequence[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """The nodes that the wanted tensors depend on, in order."""
    wanted = set(wanted)
    needed = []
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            needed.append(node)
            wanted.update(reads(node))
    return needed[::-1]
