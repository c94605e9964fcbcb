"""Shared inputs: weights that multiply the same tensor (Q, K and V; gate and up), and can share a first factor.

y_i = U_i (V x): V is stored and computed once. Only matrices of the same form can share: MatMul or Gemm, one node each
in the main graph, the same side and flags, stored as floats of one type. Integers cannot: the scales of factors are
computed for the factors of one weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import onnx

from onnx_lowrank.ops import Call, first_output
from onnx_lowrank.schemes import shared_ranks
from onnx_lowrank.types import SharedInput, Site
from onnx_lowrank.weights.storage import Storage


def find_shared_inputs(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    calls: Mapping[str, Sequence[Call]],
    storages: Mapping[str, Storage],
    multiple: int,
) -> tuple[SharedInput, ...]:
    """Return the shared inputs of the main graph, in its order, that some rank (of `multiple`) makes smaller."""
    place = {first_output(node): index for index, node in enumerate(model.graph.node) if node.output}
    groups: dict[Hashable, list[Site]] = {}
    for site in sites:
        if not why_alone(site, calls[site.id], storages[site.id]):
            groups.setdefault(_form(site, calls[site.id][0], storages[site.id]), []).append(site)
    shared_inputs = []
    for group in (group for group in groups.values() if len(group) > 1):
        ordered = sorted(group, key=lambda site: place[calls[site.id][0].output])
        members, outs = (tuple(site.id for site in ordered), tuple(site.shape[0] for site in ordered))
        shared_inputs.append(SharedInput(members, outs, ordered[0].shape[1], ordered[0].identity))
    shared_inputs = [shared for shared in shared_inputs if shared_ranks(shared, multiple)]
    return tuple(sorted(shared_inputs, key=lambda shared: place[calls[shared.members[0]][0].output]))


def unshared_notes(
    sites: Sequence[Site],
    calls: Mapping[str, Sequence[Call]],
    storages: Mapping[str, Storage],
    shared_inputs: Sequence[SharedInput],
) -> list[str]:
    """Return sentences about the matrices that share an input and cannot share a factor: one for every reason."""
    members = {member for shared in shared_inputs for member in shared.members}
    readers: dict[str, set[str]] = {}
    matrices = [site for site in sites if calls[site.id][0].op.shares_input and not site.body]
    for site in matrices:
        for call in calls[site.id]:
            readers.setdefault(call.data, set()).add(site.id)
    names_by_reason: dict[str, list[str]] = {}
    for site in (site for site in matrices if site.id not in members):
        if any(len(readers[call.data]) > 1 for call in calls[site.id]):
            why = why_alone(site, calls[site.id], storages[site.id]) or "no other has its form, or no rank would save"
            names_by_reason.setdefault(why, []).append(site.weight)
    return [
        f"{_some(names)} what other weights read, but shares no first factor: {why}"
        for why, names in names_by_reason.items()
    ]


def _some(names: Sequence[str]) -> str:
    return f"{names[0]} reads" if len(names) == 1 else f"{names[0]}, like {len(names) - 1} more, reads"


def why_alone(site: Site, calls: Sequence[Call], storage: Storage) -> str:
    """Return why a weight cannot share a first factor with any other, empty where it can."""
    if not calls[0].op.shares_input:
        return f"{site.op} shares none"
    if site.body:
        return "it is used inside a body"
    if site.groups > 1:
        return "it has a matrix for every slice"
    if len(calls) > 1 or calls[0].transposed:
        return "several nodes use it"
    return "it is stored as integers" if storage.grid is not None else ""


def _form(site: Site, call: Call, storage: Storage) -> Hashable:
    """Return what must agree between weights of a shared input. A vector has no form of its own: the side decides."""
    return call.op_type, call.op.form(call), call.data, site.shape[1], storage, site.identity
