"""Which weights of a graph can be factored (Site), and why the others cannot (Skip)."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
import onnx

from onnx_lowrank.graph.constants import PASSES
from onnx_lowrank.graph.model_io import main_opset
from onnx_lowrank.graph.view import GraphView, Use, read_graph, tensor_ranks
from onnx_lowrank.ops import SIDES, Call, by_type, first_output, op_name
from onnx_lowrank.schemes import fitting
from onnx_lowrank.types import SideName, Site, Skip, Why
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.shared_input import find_shared_inputs
from onnx_lowrank.weights.source import WeightSource, source_of
from onnx_lowrank.weights.storage import ELEMENTS
from onnx_lowrank.weights.tied_embedding import tied_embedding_of
from onnx_lowrank.weights.transforms import read
from onnx_lowrank.weights.unsuitable import leads_nowhere, not_finite, useful_nodes

INTEGERS = {*ELEMENTS.values(), int(onnx.TensorProto.UINT4)}
INDEX_TYPES = {"INT64", "INT32", "INT16", "UINT16", "UINT32", "UINT64", "BOOL", "STRING", "UNDEFINED"}
EMBEDDING = {"GatherElements", "GatherND", "EmbedLayerNormalization"}
QUANTISED_OPS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), (0,)),
    **dict.fromkeys(("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), (0, 1)),
    **dict.fromkeys(("QLinearMatMul", "QLinearConv"), (0, 3)),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "QAttention", "QGemm"), (0, 1, 3)),
}
"""Operators on integers -> the inputs that may be a weight."""
ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Clip", "PRelu", "Concat", "Equal", "Pad", "Resize"),
    *("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"),
    *("SkipLayerNormalization", "BiasGelu", "Expand", "ScatterND", "Sqrt", "Exp", "Identity"),
}


RIGID = (Why.DEPTHWISE, Why.TOO_SMALL, Why.EMBEDDING)
"""Why an operator that factors weights does not factor this one, though it could read it in another number format."""


def find_sites(
    model: onnx.ModelProto,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    multiple: int = 8,
    rigid: bool = False,
) -> Inventory:
    """Return every weight of the model, as a Site or as a Skip with its reason.

    `include` and `exclude` are globs on weight and node names; `multiple` is the smallest rank to consider. rigid:
    weights that no scheme factors are sites as well, where only their number format may change.
    """
    view = read_graph(model)
    interface = _Interface.of(model)
    opset, reached = main_opset(model), useful_nodes(model)
    sites: list[Site] = []
    skips = [_hidden(place, tensor) for place, tensor in view.hidden if _is_weight(tensor)]
    calls: dict[str, tuple[Call, ...]] = {}
    sources: dict[str, WeightSource] = {}
    bodies: dict[str, tuple[str, ...]] = {}
    constant = {(first_output(use.node), use.node.input[use.slot]) for uses in view.uses.values() for use in uses}
    for name, tensor in view.weights.items():
        uses = view.uses.get(name, [])
        if not _is_weight(tensor) or (not uses and name not in view.inner):
            continue
        refusal = _unusable(view, interface, name, tensor, uses) or leads_nowhere(uses, reached)
        tie = tied_embedding_of(uses, opset)
        source = refusal or source_of(view, name, uses, opset, tie)
        if isinstance(source, WeightSource):
            shape = source.shape(tensor)
            used = tuple(tie.call(use, opset, shape) for use in uses)
            unfactored = (
                _roles(used, uses, shape, constant, view.fed)
                or _slices(model, used)
                or not_finite(read(tensor), source.value(tensor))
                or _size(shape, used, multiple, identity := _identity(model, used))
            )
            stays = rigid and _may_be_rounded(unfactored, tensor, source, used, uses, shape)
            refusal = (None if stays else unfactored) or _unselected(name, used, include, exclude)
            if not refusal:
                sides = () if stays else identity
                site = replace(_site(name, shape, used, source, uses[0].body, sides), rigid=stays)
                sites.append(site)
                calls[site.id], sources[site.id] = used, source
                if site.body:
                    bodies[site.id] = tuple(use.body for use in uses)
                continue
            source = refusal
        skips.append(_skip(name, tensor, uses, *source))
    total = sum(site.parameters for site in sites) + sum(skip.parameters for skip in skips)
    members_by_site = find_shared_inputs(
        model,
        [site for site in sites if not site.rigid],
        calls,
        {site.id: sources[site.id].storage for site in sites},
        multiple,
    )
    return Inventory(tuple(sites), tuple(skips), calls, view.weights, total, sources, bodies, members_by_site)


def _may_be_rounded(
    refusal: tuple[Why, str] | None,
    tensor: onnx.TensorProto,
    source: WeightSource,
    used: Sequence[Call],
    uses: Sequence[Use],
    shape: tuple[int, ...],
) -> bool:
    """Return whether a weight that is not factored may be stored in another number format: one of floats, read alike
    by all its nodes, which are in the main graph; of tables, matrices of which rows are looked up.
    """
    if refusal is None or refusal[0] not in RIGID or not_finite(read(tensor), source.value(tensor)):
        return False
    alike = len({call.role for call in used}) == 1 and not any(use.body for use in uses)
    rows = all(call.op_type != "Gather" or (len(shape) == 2 and _by_rows(call)) for call in used)
    return alike and rows and source.storage.grid is None and not source.transposed


def _by_rows(call: Call) -> bool:
    return call.slot == 0 and call.attributes.get("axis", 0) in (0, -2)


@dataclass(frozen=True, slots=True)
class _Interface:
    inputs: frozenset[str]
    outputs: frozenset[str]

    @staticmethod
    def of(model: onnx.ModelProto) -> _Interface:
        """Before IR 4 every initializer had to be listed as an input, so being listed means nothing."""
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
    if name in view.inner:
        return Why.SUBGRAPH, f"returned as it is by a body of {view.inner[name]}"
    inside = next((use for use in uses if use.body), None)
    if inside is not None and any(not use.body for use in uses):
        return Why.SUBGRAPH, f"read inside {inside.place}, and outside of it"
    if name in interface.outputs:
        return Why.OUTPUT, "the graph returns it"
    if name in interface.inputs:
        return Why.OVERRIDABLE, "also listed as a graph input; remove it there to have it factored"
    if tensor.data_type in INTEGERS and uses and all(use.node.op_type in ("Mul", "Add") for use in uses):
        return Why.QUANTISED, "integers, unpacked by a product: give the float model that it was made from"
    refusals = [refusal for use in uses if (refusal := _operator(use, tuple(tensor.dims), interface.outputs))]
    if refusals and len(refusals) < len(uses):
        return Why.SHARED, f"also used as {refusals[0][0].value} ({refusals[0][1] or 'another operator'})"
    return refusals[0] if refusals else None


def _operator(use: Use, shape: tuple[int, ...], outputs: Container[str]) -> tuple[Why, str] | None:
    """Return why one use is not a factorable one, None where an operator takes it."""
    kind, domain = use.node.op_type, use.node.domain
    if by_type(op_name(use.node)) is not None:
        return None
    if kind in QUANTISED_OPS and use.slot not in QUANTISED_OPS[kind]:
        return Why.ELEMENTWISE, f"scale, zero point or bias of {kind}"
    if kind in QUANTISED_OPS and (kind not in PASSES or domain == "com.microsoft"):
        return Why.QUANTISED, f"{kind}: only int8 and uint8 behind a plain DequantizeLinear are factored"
    if domain not in ("", "ai.onnx"):
        return Why.OPERATOR, f"{domain}.{kind}"
    if kind in EMBEDDING:
        return Why.EMBEDDING, f"{kind} takes single elements: only rows (Gather) are looked up in factors"
    if kind in PASSES and use.slot:
        return Why.ELEMENTWISE, f"read by {kind}"
    if kind in PASSES and use.body:
        return Why.OPERATOR, f"behind {kind} inside {use.place}"
    if kind in PASSES - {"Identity"}:
        return Why.OPERATOR, f"behind {kind}, {_why_not_passed(use.node, outputs)}"
    if kind in ELEMENTWISE or len(shape) < 2:
        return Why.ELEMENTWISE, kind
    return Why.OPERATOR, kind


def _why_not_passed(node: onnx.NodeProto, outputs: Container[str]) -> str:
    return "whose output the graph returns" if node.output[0] in outputs else "which also reads what the graph computes"


def _roles(
    used: Sequence[Call],
    uses: Sequence[Use],
    shape: tuple[int, ...],
    constant: Container[tuple[str, str]],
    fed: Container[str],
) -> tuple[Why, str] | None:
    """Return why the operators refuse, or that they disagree about a shared weight.

    `constant`: (a node's output, its input) wherever that input is constant. `fed`: what depends on the inputs' values.
    """
    roles = set()
    for call, use in zip(used, uses, strict=True):
        refusal = call.refuse(shape)
        if refusal:
            return refusal
        if use.node.input[call.slot] == call.data:
            return Why.SHAPE, "both operands are the same tensor"
        if (call.output, call.data) in constant:
            return Why.SHAPE, "both operands are constant"
        if call.observable == "outputs" and call.data not in fed:
            return Why.EMBEDDING, "all samples look up the same rows (of positions, say)"
        roles.add(call.role)
    if len(roles) > 1 and any(call.observable == "outputs" for call in used):
        return Why.SHARED, "an embedding table that another layer multiplies by"
    if len(roles) > 1:
        return Why.SHARED, "its nodes read it in different layouts"
    return None


def _slices(model: onnx.ModelProto, used: Sequence[Call]) -> tuple[Why, str] | None:
    """Return why a matrix for every slice cannot be factored: what it is multiplied with may be a vector."""
    if all(call.groups == 1 and len(call.shape) < 3 for call in used if call.op_type == "MatMul"):
        return None
    ranks = tensor_ranks(model)
    if all(ranks.get(call.data, 0) > 1 for call in used if call.op_type == "MatMul"):
        return None
    return Why.SHAPE, "a matrix for every slice meets a vector, or a tensor of unknown rank"


def _identity(model: onnx.ModelProto, used: Sequence[Call]) -> tuple[SideName, ...]:
    """Return the sides on which all calls can do without an identity block of a factor."""
    columns = [call for call in used if call.op_type == "MatMul" and call.slot == 0]
    if columns:  # what such a matrix maps may be a vector, which has no axis of its own for rows
        ranks = tensor_ranks(model)
        if not all(ranks.get(call.data, 0) > 1 for call in columns):
            return ()
    return tuple(side for side in SIDES if all(side in call.identity_sides for call in used))


def _size(
    shape: tuple[int, ...], used: Sequence[Call], multiple: int, identity: tuple[SideName, ...]
) -> tuple[Why, str] | None:
    site = _site("", shape, used, None, "", identity)
    if fitting(site, multiple):
        return None
    if site.identity:
        return Why.TOO_SMALL, f"its rank is {site.full_rank}, ranks below it are multiples of {multiple}"
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


def _site(
    name: str,
    shape: tuple[int, ...],
    used: Sequence[Call],
    source: WeightSource | None,
    body: str,
    identity: tuple[SideName, ...],
) -> Site:
    first = used[0]
    return Site(
        id=f"{body}/{first.output}" if body else first.output,  # bodies may have the same names inside
        node=first.name or first.output,
        op=first.op_type,
        weight=name,
        shape=first.canonical(np.broadcast_to(np.float32(0), shape)).shape,
        sharers=tuple(call.output for call in used),
        groups=first.groups,
        whole=any(call.whole for call in used),
        body=body,
        identity=identity,
        **(source.sizes if source else {}),
    )


def _skip(name: str, tensor: onnx.TensorProto, uses: Sequence[Use], why: Why, detail: str) -> Skip:
    node = uses[0].node if uses else None
    place = (node.name or first_output(node)) if node else "a subgraph"
    return Skip(name, place, node.op_type if node else "", tuple(tensor.dims), why, detail)


def _hidden(place: str, tensor: onnx.TensorProto) -> Skip:
    return Skip(tensor.name or "(constant)", place, "", tuple(tensor.dims), Why.SUBGRAPH, f"lives in {place}")


def largest_first(skips: Iterable[Skip]) -> list[Skip]:
    """Return skips by falling size, then by name."""
    return sorted(skips, key=lambda skip: (-math.prod(skip.shape), skip.weight))
