"""A graph and a plan -> a new graph: the only place that factors one (int8 comes after, in `quantization`).

Contract. Before: every site of the plan was found in this very model. After: the nodes of a factored site are replaced
in their places by chains of the same operator, ending in the same output tensor; a shared first factor is at the place
of the first of its nodes; weights that are no longer read are removed; everything else of the file (names, opsets,
metadata, documentation, other nodes) is as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import onnx

from onnx_lowrank.errors import PlanError
from onnx_lowrank.graph.constants import fixed_constants
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.names import Fresh, all_names
from onnx_lowrank.graph.scratch import move_out
from onnx_lowrank.graph.traversal import bodies
from onnx_lowrank.ops import Call, StagePosition, first_output, write_chain
from onnx_lowrank.passes.absorb_orders import absorb_orders
from onnx_lowrank.passes.free_orders import FreeOrders
from onnx_lowrank.passes.integer_arithmetic import in_integers
from onnx_lowrank.passes.node_marks import mark
from onnx_lowrank.passes.placement import Placed, placed, placed_together
from onnx_lowrank.passes.rounded_tensor import InFormat
from onnx_lowrank.passes.unpack import in_formats
from onnx_lowrank.passes.unread_weights import remove_unread
from onnx_lowrank.schemes import Factors
from onnx_lowrank.types import (
    ARITHMETIC,
    DENSE,
    FORMATS,
    OWN,
    Array,
    Chain,
    Form,
    Option,
    Plan,
    SideName,
    Site,
    Stage,
    stage_formats,
)
from onnx_lowrank.types.number_formats import EACH
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.storage import Storage, Stored, stored_axes
from onnx_lowrank.weights.transforms import as_type, tensor_of

SUBNORMAL_CUTOFF = 1e-20
"""Relative to the largest entry of a factor; far below the resolution of float64, let alone float32."""


def rewrite(
    model: onnx.ModelProto,
    inventory: Inventory,
    plan: Plan,
    factors: Mapping[tuple[str, str], Factors],
    *,
    narrow: bool = False,
) -> onnx.ModelProto:
    """Return a copy of `model` with the plan's sites factored. Raises PlanError for a site not in `inventory`.

    narrow: factors will be rounded to a narrower type than they are written in.
    """
    new = _New(model, inventory, Fresh(all_names(model)), narrow)
    sites = {site.id: site for site in inventory.sites}
    for choice in plan.factored:
        if choice.site not in sites:
            raise PlanError(f"the plan factors {choice.weight!r}, which cannot be factored in this model")
        form, site = choice.option.form, sites[choice.site]
        if {*form.storage.split(EACH)} - {OWN, *FORMATS, *ARITHMETIC}:
            raise PlanError(f"the plan stores {choice.weight!r} as {form.storage!r}, which is not known here")
        if not choice.option.shared_input:
            dense = form.scheme == DENSE
            chain = inventory.whole(site) if dense else factors[choice.site, form.scheme].chain(form.ranks)
            _write(site, chain, new, form)
    for members, option in _shared_inputs(plan, inventory):
        chains = [factors[member, option.scheme].chain(option.ranks) for member in members]
        _write_shared([sites[m] for m in members], chains, new, option.form)
    for choice in plan.factored:
        for call, body in inventory.places(sites[choice.site]):
            mark(new.nodes[body][call.output], choice, sites[choice.site])
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    for body, _, inner in reversed(list(bodies(rewritten.graph))):  # what is spliced is copied: innermost first
        _splice(inner, new.nodes.get(body, {}))
    _splice(rewritten.graph, new.nodes.get("", {}), new.first)
    remove_unread(rewritten, {choice.weight for choice in plan.factored} | new.folded)
    _store(rewritten, new.tensors)
    made = absorb_orders(rewritten, new.orders, kept=new.kept)[0]
    made = in_formats(made, new.formats, orders=new.whole) if new.formats else made
    computed = {name: how.number.activations for name, how in new.formats.items() if how.number.activations}
    ranged = inventory.ranged
    return in_integers(made, computed, ranged.feeds, ranged.runtime) if computed else made


@dataclass(frozen=True, eq=False)
class _New:
    """What is written for a model. nodes: body -> output of the node that they replace -> the new ones; first: those to
    come before all others. folded: the biases that are now part of factors' own. orders: Gathers that neighbours can do
    without. formats: factors to be stored in a number format. kept: those whose blocks must
    stay, with their axis. whole: tensors of whole numbers.
    """

    model: onnx.ModelProto
    inventory: Inventory
    names: Fresh
    narrow: bool
    nodes: dict[str, dict[str, list[onnx.NodeProto]]] = field(default_factory=dict)
    first: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    folded: set[str] = field(default_factory=set)
    orders: list[str] = field(default_factory=list)
    formats: dict[str, InFormat] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    @cached_property
    def free(self) -> FreeOrders:
        """Which channels may be in any order."""
        return FreeOrders(self.model)

    @cached_property
    def constants(self) -> Mapping[str, onnx.TensorProto]:
        """The constants of the main graph that no caller may replace."""
        return fixed_constants(self.model)

    def bias(self, call: Call, body: str) -> Array | None:
        """Return what a node adds to W x, where it is a constant vector."""
        name = call.op.adds(call)
        if body or name not in self.constants:
            return None
        return call.op.constant_bias(call, tensor_array(self.constants[name]))


def _write(site: Site, chain: Chain, new: _New, form: Form) -> None:
    """Write the chain once for every node that shares the weight; the factors are stored once."""
    storage = new.inventory.storage(site, form.storage)
    chain, free = _placed(site, chain, new, storage) if form.interpolative else Placed(chain, frozenset())
    named: list[tuple[Stage, str]] = []
    before: list[onnx.NodeProto] = []
    settled = storage.settled(chain) if len(chain.stages) > 1 else chain
    storages = _each(site, form, len(chain.stages), new)
    stages = new.inventory.compensated(site, form.storage, settled).stages
    for index, stage in enumerate(stages):
        position: StagePosition = "first" if index == 0 else "last" if index == len(stages) - 1 else "inner"
        hint = f"{site.weight}.lowrank{index}"
        if len(stages) == 1:
            position, hint = "whole", f"{site.weight}.whole"
        stored = _stored(site, new, stage, position, hint, form, index, len(stages))
        if stage.passed and storages[index].narrow and not new.inventory.compensates(site, form.storage):
            # what folds a bias into it has to know the numbers as they are read
            stage = replace(stage, weight=storages[index].rounded(stage.weight))
        named.append((stage, stored.name))
        new.tensors.extend(stored.tensors)
        before.extend(stored.nodes)
    if site.body:  # bodies read what the main graph makes
        new.first.extend(before)
        before = []
    for call, body in new.inventory.places(site):
        bias = new.bias(call, body) if stages[-1].passed else None
        written = write_chain(call, named, new.names, bias=bias, free=free)
        new.orders.extend(written.orders)
        if bias is not None:
            new.folded.add(call.op.adds(call))
        # the nodes that unpack factors stand before the first
        new.nodes.setdefault(body, {})[call.output] = [*before, *written.nodes]
        before = []
        _store_extra(site, written.extra, new)


def _placed(site: Site, chain: Chain, new: _New, storage: Storage) -> Placed:
    """Return a site's chain without identity blocks, and speak for the orders that it needs."""
    calls = new.inventory.calls[site.id]
    free = new.free.sides(site, calls)
    avoided: tuple[SideName, ...] = () if new.free.open_inputs(calls) else ("in",)
    made = placed(chain, site, storage, free, avoided=avoided, narrow=new.narrow)
    for side in made.free:
        new.free.take(free[side])
    if made.chain.stages[0].added and "in" not in made.free:
        for call in calls:
            new.free.keep(call.data)
    return made


def _each(site: Site, form: Form, count: int, new: _New) -> tuple[Storage, ...]:
    """Return how each stage is stored. Raises PlanError for formats of another number of stages."""
    try:
        return new.inventory.storages(site, form.storage, count)
    except ValueError as error:
        raise PlanError(f"the plan stores {site.weight!r}, and {error}") from error


def _stored(
    site: Site, new: _New, stage: Stage, position: StagePosition, hint: str, form: Form, index: int, count: int
) -> Stored:
    """Return a factor as the weight itself is stored; one of a number format is noted, to be rounded at the end."""
    call = new.inventory.calls[site.id][0]
    layout = partial(call.stored, position=position)
    number = stage_formats(form.storage, count)[index]
    weight = as_type(stage.weight, onnx.TensorProto.FLOAT16) if number is not None and number.floating else stage.weight
    clean = replace(stage, weight=_without_subnormals(weight))
    stored = new.inventory.sources[site.id].storage.store(clean, layout, hint, new.names)
    for tensor in stored.tensors:
        move_out(tensor)
    if number is not None:
        order, looked_up = stored_axes(clean, layout), new.inventory.looks_up(site)
        exact = number.compensated and new.inventory.compensates(site, form.storage)
        rows = looked_up and index == 0
        if not number.takes(stage.weight.shape) and not rows:
            raise PlanError(
                f"the plan stores {site.weight!r} as {number.name!r} with {stage.weight.shape[0]} outputs: only"
                f" multiples of {number.outputs} are computed right"
            )
        if order is None:
            raise PlanError(f"the plan stores {site.weight!r} as {form.storage!r}, and its channels are on no one axis")
        how = InFormat(number, order, looked_up, rows=rows, exact=exact)
        new.formats[stored.tensors[0].name] = how
        if exact and how.grid.at(stage.weight.shape).block:
            new.kept[stored.tensors[0].name] = how.blocks
    return stored


def _store_extra(site: Site, extra: Mapping[str, Array], new: _New) -> None:
    """Note the tensors that nodes need besides factors: numbers of the type that arrives, or whole numbers."""
    arrives = new.inventory.sources[site.id].storage.arrives
    for name, array in extra.items():
        if array.dtype.kind == "f":
            new.tensors.append(tensor_of(array, arrives, name))
        else:
            new.tensors.append(onnx.numpy_helper.from_array(array, name))
            new.whole.add(name)


def _shared_inputs(plan: Plan, inventory: Inventory) -> list[tuple[tuple[str, ...], Option]]:
    """Return the members that share a first factor, with their option. Raises PlanError where not all take it."""
    chosen = {choice.site: choice for choice in plan.factored}
    members_by_site = {member: shared.members for shared in inventory.shared_inputs for member in shared.members}
    shared_inputs = {
        choice.option.shared_input: choice.option for choice in plan.factored if choice.option.shared_input
    }
    for members, option in shared_inputs.items():
        together = all(
            member in chosen
            and (chosen[member].option.shared_input, chosen[member].option.ranks) == (members, option.ranks)
            for member in members
        )
        if not together or members != tuple(
            member for member in members_by_site.get(members[0], ()) if member in members
        ):
            names = ", ".join(repr(chosen[member].weight if member in chosen else member) for member in members)
            raise PlanError(f"the plan gives one first factor to {names}, which cannot share one in this model")
    return list(shared_inputs.items())


def _write_shared(sites: Sequence[Site], chains: Sequence[Chain], new: _New, form: Form) -> None:
    """Write the shared stage before the first member, in the order of the graph, and each member's own in its place."""
    storage = new.inventory.storage(sites[0], form.storage)
    able = sites[0] if form.interpolative else replace(sites[0], identity=())
    chains, free = placed_together(chains, able, storage, narrow=new.narrow)
    stages = _settled_together(storage, chains)
    if new.inventory.compensates(sites[0], form.storage):
        pairs = [Chain((stages[0], stage)) for stage in stages[1:]]
        made = [
            new.inventory.compensated(site, form.storage, pair, shared=True)
            for site, pair in zip(sites, pairs, strict=True)
        ]
        stages = [made[0].stages[0], *(chain.stages[1] for chain in made)]
    first = _stored(sites[0], new, stages[0], "first", f"{sites[0].weight}.shared", form, 0, 2)
    new.tensors.extend(first.tensors)
    before, inner = list(first.nodes), ""
    for site, stage in zip(sites, stages[1:], strict=True):
        call = new.inventory.calls[site.id][0]
        own = _stored(site, new, stage, "last", f"{site.weight}.lowrank1", form, 1, 2)
        new.tensors.extend(own.tensors)
        written = write_chain(call, [(stages[0], first.name), (stage, own.name)], new.names, free=free, inner=inner)
        inner = written.inner
        new.nodes.setdefault(site.body, {})[call.output] = [*before, *own.nodes, *written.nodes]
        before = []
        _store_extra(site, written.extra, new)


def _settled_together(storage: Storage, chains: Sequence[Chain]) -> list[Stage]:
    """Return the shared stage and every member's own: settled as one chain whose outputs are concatenated."""
    first, lasts = chains[0].stages[0], [chain.stages[-1].weight for chain in chains]
    shared, joined = storage.settled(Chain((first, Stage(np.concatenate(lasts))))).stages
    ends = np.cumsum([len(last) for last in lasts])[:-1]
    return [shared, *(Stage(weight) for weight in np.split(joined.weight, ends))]


def _without_subnormals(weight: Array) -> Array:
    """Return a factor with entries below SUBNORMAL_CUTOFF of its largest as zeros.

    A channel that is dead in the original comes out as 1e-25 or less, and what it computes is subnormal: processors
    take up to a hundred times as long for that (one 1×1 Conv of PP-OCR ran 65 ms instead of .6).
    """
    return np.where(np.abs(weight) < SUBNORMAL_CUTOFF * np.abs(weight).max(initial=0.0), weight.dtype.type(0), weight)


def _splice(
    graph: onnx.GraphProto, replaced: Mapping[str, list[onnx.NodeProto]], first: Sequence[onnx.NodeProto] = ()
) -> None:
    """Put the new nodes in the places of the old ones: the topological order is kept."""
    nodes: list[onnx.NodeProto] = list(first)
    for node in graph.node:
        new = replaced.get(first_output(node)) if node.output else None
        for position, written in enumerate(new or ()):
            if position == len(new or ()) - 1:
                written.doc_string = node.doc_string
                written.metadata_props.extend(node.metadata_props)
        nodes.extend([node] if new is None else new)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _store(model: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    for tensor in tensors:
        model.graph.initializer.append(tensor)
        if model.ir_version < 4:  # there, every initializer must be listed as an input as well
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(value)
