"""What a graph holds: sites and skips, the calls of every site, and where its weight comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from weakref import WeakValueDictionary

import numpy as np
import onnx

from onnx_lowrank.ops import Call
from onnx_lowrank.options import Runtime
from onnx_lowrank.types import (
    ARITHMETIC,
    FORMATS,
    INT8_BLOCKS,
    INT12,
    OWN,
    Array,
    Chain,
    Feed,
    NumberFormat,
    SharedInput,
    Site,
    Skip,
    Stage,
    formats_in,
    stage_formats,
)
from onnx_lowrank.types.number_formats import EACH
from onnx_lowrank.weights.compensation import Compensation
from onnx_lowrank.weights.source import WeightSource
from onnx_lowrank.weights.storage import Storage, stored_axes

CPU = Runtime(provider="cpu")


@dataclass(frozen=True, slots=True, eq=False)
class RangeSamples:
    """What the ranges of activations are found on, and how the model is run for it."""

    feeds: Sequence[Feed] = ()
    runtime: Runtime = CPU


NO_SAMPLES = RangeSamples()


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a graph holds.

    calls: site id -> the calls that share its weight. parameters: elements of all weights (index tensors aside).
    sources: site id -> where its weight comes from. bodies: site id -> the body that each of its calls is in; sites
    of the main graph are not in it. all_shared_inputs: those of the graph, whether or not all members are in
    `sites`. compensation: how weights in few bits are rounded; None: to the nearest. ranged: what the ranges of
    activations that become integers are found on.
    """

    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    calls: Mapping[str, tuple[Call, ...]]
    weights: Mapping[str, onnx.TensorProto]
    parameters: int
    sources: Mapping[str, WeightSource]
    bodies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    all_shared_inputs: tuple[SharedInput, ...] = ()
    compensation: Compensation | None = None
    ranged: RangeSamples = NO_SAMPLES
    _live: WeakValueDictionary[str, Array] = field(
        init=False, repr=False, compare=False, default_factory=WeakValueDictionary
    )

    def __reduce__(self) -> tuple[type[Inventory], tuple[object, ...]]:
        """Pickled for a worker: without the weights that are in use here."""
        return Inventory, tuple(getattr(self, each.name) for each in fields(self) if each.init)

    @property
    def shared_inputs(self) -> tuple[SharedInput, ...]:
        """The shared inputs of which all members are among the sites."""
        ids = {site.id for site in self.sites}
        return tuple(shared for shared in self.all_shared_inputs if ids.issuperset(shared.members))

    def sharing(self, allowed: bool) -> Inventory:
        """Return the same, without shared inputs where weights are not allowed to share a first factor."""
        return self if allowed else replace(self, all_shared_inputs=())

    @property
    def factorable(self) -> Inventory:
        """The same without sites that no scheme factors."""
        return replace(self, sites=tuple(site for site in self.sites if not site.rigid))

    def part(self, *, bodies: bool) -> Inventory:
        """Return what holds the sites inside bodies alone, or the others."""
        return replace(self, sites=tuple(site for site in self.sites if bool(site.body) == bodies))

    def weight(self, site: Site) -> Array:
        """Return a site's weight in canonical form (out, in, *spatial), float64."""
        return self.stored(site).astype(np.float64)

    def stored(self, site: Site) -> Array:
        """Return the same as it arrives at the operator, read-only: one array, as long as it is referenced.

        Reading a tensor copies it, and factors of several schemes and folds keep the weight.
        """
        known = self._live.get(site.id)
        if known is None:
            call = self.calls[site.id][0]
            known = call.canonical(self.sources[site.id].value(self.weights[site.weight]))
            known.flags.writeable = False
            self._live[site.id] = known
        return known

    def whole(self, site: Site) -> Chain:
        """Return a site's weight as a chain of one stage."""
        return Chain((Stage(self.stored(site), tuple(range(len(site.shape) - 2)), site.groups),))

    def places(self, site: Site) -> Iterator[tuple[Call, str]]:
        """Yield a site's calls, each with the body that it is in."""
        calls = self.calls[site.id]
        yield from zip(calls, self.bodies.get(site.id, ("",) * len(calls)), strict=True)

    def looks_up(self, site: Site) -> bool:
        """Return whether the weight, or its first factor, is a table of which rows are looked up."""
        return self.calls[site.id][0].observable == "outputs"

    def formats(self, site: Site) -> tuple[NumberFormat, ...]:
        """Return the number formats in which a site's weight and its factors can be stored.

        None of a weight that is stored as integers already or that bodies read, or whose channels are no axis of what
        the operator reads. Tables that are looked up have no other type than float32.
        """
        own = self.sources[site.id].storage
        if own.grid is not None or site.body or site.id in self.bodies or self.sources[site.id].transposed:
            return ()
        shorter = [number for number in FORMATS.values() if not (number.floating and own.narrow)]
        if self.looks_up(site):  # a row is a block of bytes already, and is read from one tensor
            tables = tuple(number for number in shorter if number not in (INT8_BLOCKS, INT12))
            return tables if own.arrives == onnx.TensorProto.FLOAT else ()
        (stage,) = self.whole(site).stages
        return tuple(shorter) if stored_axes(stage, self.calls[site.id][0].stored) else ()

    def arithmetic(self, site: Site) -> tuple[NumberFormat, ...]:
        """Return the formats in which a site's operators multiply integers: those of which all of them have kernels."""
        single = self.sources[site.id].storage.arrives == onnx.TensorProto.FLOAT
        kinds = {call.op.integers(call) for call in self.calls[site.id]}
        if not self.formats(site) or self.looks_up(site) or not single or len(kinds) > 1:
            return ()
        return tuple(number for number in ARITHMETIC.values() if {number.activations} == kinds)

    def storage(self, site: Site, storage: str = OWN) -> Storage:
        """Return how a site is stored: its own way, or in a number format, of several the first.

        What is settled before it is rounded is settled alike for all of them. Raises KeyError for an unknown format.
        """
        own = self.sources[site.id].storage
        numbers = formats_in(storage)
        return own.in_format(numbers[0], looked_up=self.looks_up(site)) if numbers else own

    def storages(self, site: Site, storage: str, stages: int) -> tuple[Storage, ...]:
        """Return how each stage of a chain is stored. Raises KeyError, ValueError like `stage_formats`."""
        own, looked_up = self.sources[site.id].storage, self.looks_up(site)
        numbers = stage_formats(storage, stages)
        return tuple(
            own if number is None else own.in_format(number, looked_up=looked_up, rows=looked_up and index == 0)
            for index, number in enumerate(numbers)
        )

    def seen(self, site: Site, chain: Chain, storage: str = OWN, *, shared: bool = False) -> Chain:
        """Return a chain as the operators compute with it, rounding included. shared: its first stage serves others."""
        stored = self.storage(site, storage)
        if not stored.narrow:
            return chain
        settled = stored.settled(chain)
        if self.compensates(site, storage):
            return self.compensated(site, storage, settled, shared=shared)
        pairs = zip(settled.stages, self.storages(site, storage, len(settled.stages)), strict=True)
        return Chain(tuple(replace(s, weight=each.rounded(s.weight).astype(np.float64)) for s, each in pairs))

    def compensates(self, site: Site, storage: str) -> bool:
        """Return whether a weight in a format is rounded with its errors made up for."""
        if self.compensation is None:
            return False
        return self.compensation.knows(site, self.storages(site, storage, len(storage.split(EACH))))

    def compensated(self, site: Site, storage: str, chain: Chain, *, shared: bool = False) -> Chain:
        """Return a settled chain with the numbers that are stored, where a weight is rounded so; else as it is."""
        if self.compensation is None or not self.compensates(site, storage):
            return chain
        return self.compensation.rounded(site, self.storages(site, storage, len(chain.stages)), chain, shared=shared)

    def moved(self, weights: Mapping[str, Array]) -> Inventory:
        """Return the same sites with other numbers: site id -> what arrives at its operators."""
        named = {site.weight: weights[site.id] for site in self.sites if site.id in weights}
        tensors = {name: onnx.numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in named.items()}
        sources = {key: replace(source, transforms=()) for key, source in self.sources.items() if key in weights}
        return replace(self, weights={**self.weights, **tensors}, sources={**self.sources, **sources})
