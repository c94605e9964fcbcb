"""Which weights of a graph can be factored (Site), and why the others cannot (Skip)."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx

from onnx_lowrank.graph import GraphView, Use, read_graph
from onnx_lowrank.model_io import main_opset
from onnx_lowrank.ops import Call, by_type, call_of, operator
from onnx_lowrank.schemes import SCHEMES
from onnx_lowrank.types import Array, Site, Skip, Why

HANDLED_TYPES = {"FLOAT": 4, "DOUBLE": 8}
INDEX_TYPES = {"INT64", "INT32", "INT16", "UINT16", "UINT32", "UINT64", "BOOL", "STRING", "UNDEFINED"}
QUANTISED_TYPES = ("INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2", "FLOAT8", "FLOAT4")
RECURRENT = {"LSTM", "GRU", "RNN"}
EMBEDDING = {"Gather", "GatherElements", "GatherND", "EmbedLayerNormalization"}
QUANTISED_OPS = {"DequantizeLinear", "QuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"}
PASSES_WEIGHTS = {"Transpose", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten"}
ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Clip", "PRelu", "Concat", "Equal", "Pad", "Resize"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    *("SkipLayerNormalization", "BiasGelu", "Expand", "ScatterND", "Sqrt", "Exp", "Identity"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What a graph holds.

    calls: site id -> the calls that share its weight. parameters: elements of all weights (index tensors aside).
    """

    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    calls: Mapping[str, tuple[Call, ...]]
    weights: Mapping[str, onnx.TensorProto]
    parameters: int

    @property
    def site_parameters(self) -> int:
        """Elements in factorable weights."""
        return sum(site.parameters for site in self.sites)

    def weight(self, site: Site) -> Array:
        """Return a site's weight in canonical form (out, in, *spatial), float64."""
        return self.stored(site).astype(np.float64)

    def stored(self, site: Site) -> Array:
        """Return the same as it is stored, without a copy in double precision."""
        call = self.calls[site.id][0]
        return operator(call).canonical(call, onnx.numpy_helper.to_array(self.weights[site.weight]))


def find_sites(
    model: onnx.ModelProto, *, include: Sequence[str] = (), exclude: Sequence[str] = (), multiple: int = 8
) -> Found:
    """Return every weight of the model, as a Site or as a Skip with its reason.

    `include` and `exclude` are globs on weight and node names; `multiple` is the smallest rank worth having.
    """
    view = read_graph(model)
    interface = _Interface.of(model)
    opset = main_opset(model)
    sites: list[Site] = []
    skips = [_hidden(place, tensor) for place, tensor in view.hidden if _is_weight(tensor)]
    calls: dict[str, tuple[Call, ...]] = {}
    constant = {(use.node.output[0], use.node.input[use.slot]) for uses in view.uses.values() for use in uses}
    for name, tensor in view.weights.items():
        uses = view.uses.get(name, [])
        if not _is_weight(tensor) or (not uses and name not in view.inner):
            continue
        used = tuple(call_of(use.node, use.slot, opset, tuple(tensor.dims)) for use in uses)
        refusal = (
            _unusable(view, interface, name, tensor, uses)
            or _roles(used, uses, tuple(tensor.dims), constant)
            or _size(tensor, used, multiple)
            or _unselected(name, used, include, exclude)
        )
        if refusal:
            skips.append(_skip(name, tensor, uses, *refusal))
        else:
            site = _site(name, tensor, used)
            sites.append(site)
            calls[site.id] = used
    total = sum(site.parameters for site in sites) + sum(skip.parameters for skip in skips)
    return Found(tuple(sites), tuple(skips), calls, view.weights, total)


@dataclass(frozen=True, slots=True)
class _Interface:
    inputs: frozenset[str]
    outputs: frozenset[str]

    @staticmethod
    def of(model: onnx.ModelProto) -> _Interface:
        """Before IR 4 every initializer had to be listed as an input, so being one says nothing."""
        inputs = frozenset(v.name for v in model.graph.input) if model.ir_version >= 4 else frozenset()
        return _Interface(inputs, frozenset(v.name for v in model.graph.output))


def _type_name(tensor: onnx.TensorProto) -> str:
    return str(onnx.TensorProto.DataType.Name(tensor.data_type))


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return _type_name(tensor) not in INDEX_TYPES


def _unusable(
    view: GraphView, interface: _Interface, name: str, tensor: onnx.TensorProto, uses: Sequence[Use]
) -> tuple[Why, str] | None:
    """Return why no operator may touch this tensor at all."""
    kind = _type_name(tensor)
    if kind.startswith(QUANTISED_TYPES):
        return Why.QUANTISED, kind.lower()
    if name in view.inner:
        return Why.SUBGRAPH, "read inside If, Loop or Scan"
    if name in interface.outputs:
        return Why.OUTPUT, "the graph returns it"
    if name in interface.inputs:
        return Why.OVERRIDABLE, "also listed as a graph input; remove it there to have it factored"
    refusals = [refusal for use in uses if (refusal := _operator(use, tuple(tensor.dims)))]
    if refusals and len(refusals) < len(uses):
        return Why.SHARED, f"also used as {refusals[0][0].value} ({refusals[0][1] or 'another operator'})"
    if refusals:
        return refusals[0]
    if kind not in HANDLED_TYPES:
        return Why.DTYPE, f"{kind.lower()}: only float32 and float64 are factored so far"
    return None


def _operator(use: Use, shape: tuple[int, ...]) -> tuple[Why, str] | None:
    """Return why one use is not a factorable one, None where an operator takes it."""
    kind, domain = use.node.op_type, use.node.domain
    if domain not in ("", "ai.onnx"):
        return Why.OPERATOR, f"{domain}.{kind}"
    if by_type(kind) is not None:
        return None
    if kind in RECURRENT:
        return Why.RECURRENT, kind
    if kind in EMBEDDING:
        return Why.EMBEDDING, kind
    if kind in QUANTISED_OPS:
        return Why.QUANTISED, kind
    if kind in PASSES_WEIGHTS:
        return Why.OPERATOR, f"behind {kind}"
    if kind in ELEMENTWISE or len(shape) < 2:
        return Why.ELEMENTWISE, kind
    return Why.OPERATOR, kind


def _roles(
    used: Sequence[Call], uses: Sequence[Use], shape: tuple[int, ...], constant: Container[tuple[str, str]]
) -> tuple[Why, str] | None:
    """Return why the operators refuse, or that they disagree about a shared weight.

    `constant`: (a node's output, its input) wherever that input is constant.
    """
    roles = set()
    for call, use in zip(used, uses, strict=True):
        op = operator(call)
        refusal = op.refuse(call, shape)
        if refusal:
            return refusal
        if use.node.input[call.slot] == op.data(call):
            return Why.SHAPE, "both operands are the same tensor"
        if (call.output, op.data(call)) in constant:
            return Why.SHAPE, "both operands are constant"
        roles.add(op.role(call))
    if len(roles) > 1:
        return Why.SHARED, "its nodes read it in different layouts"
    return None


def _size(tensor: onnx.TensorProto, used: Sequence[Call], multiple: int) -> tuple[Why, str] | None:
    site = _site("", tensor, used)
    if any(scheme.ranks(site.shape, multiple, site.groups) for scheme in SCHEMES):
        return None
    return Why.TOO_SMALL, f"breaks even at rank {site.break_even:.3g}, ranks are multiples of {multiple}"


def _unselected(
    name: str, used: Sequence[Call], include: Iterable[str], exclude: Iterable[str]
) -> tuple[Why, str] | None:
    names = [name, *(call.name or call.output for call in used)]
    patterns = list(include)
    if patterns and not any(fnmatchcase(n, p) for n in names for p in patterns):
        return Why.EXCLUDED, "no --include names it"
    hit = next((p for p in exclude for n in names if fnmatchcase(n, p)), None)
    return (Why.EXCLUDED, f"--exclude {hit}") if hit is not None else None


def _site(name: str, tensor: onnx.TensorProto, used: Sequence[Call]) -> Site:
    first = used[0]
    shape = operator(first).canonical(first, np.broadcast_to(np.float32(0), tuple(tensor.dims))).shape
    return Site(
        id=first.output,
        node=first.name or first.output,
        op=first.op,
        weight=name,
        shape=shape,
        sharers=tuple(call.output for call in used),
        itemsize=HANDLED_TYPES[_type_name(tensor)],
        groups=operator(first).groups(first),
    )


def _skip(name: str, tensor: onnx.TensorProto, uses: Sequence[Use], why: Why, detail: str) -> Skip:
    node = uses[0].node if uses else None
    place = (node.name or node.output[0]) if node else "a subgraph"
    return Skip(name, place, node.op_type if node else "", tuple(tensor.dims), why, detail)


def _hidden(place: str, tensor: onnx.TensorProto) -> Skip:
    return Skip(tensor.name or "(constant)", place, "", tuple(tensor.dims), Why.SUBGRAPH, f"lives in {place}")


def largest_first(skips: Iterable[Skip]) -> list[Skip]:
    """Return skips by falling size, then by name."""
    return sorted(skips, key=lambda skip: (-math.prod(skip.shape), skip.weight))
