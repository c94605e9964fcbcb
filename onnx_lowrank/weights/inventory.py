"""What a graph holds: sites and skips, the calls of every site, and where its weight comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

import numpy as np
import onnx

from onnx_lowrank.ops import Call
from onnx_lowrank.types import Array, SharedInput, Site, Skip
from onnx_lowrank.weights.source import WeightSource


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a graph holds.

    calls: site id -> the calls that share its weight. parameters: elements of all weights (index tensors aside).
    sources: site id -> where its weight comes from. bodies: site id -> the body that each of its calls is in; sites
    of the main graph are not in it. all_shared_inputs: those of the graph, whether or not all members are in
    `sites`.
    """

    sites: tuple[Site, ...]
    skips: tuple[Skip, ...]
    calls: Mapping[str, tuple[Call, ...]]
    weights: Mapping[str, onnx.TensorProto]
    parameters: int
    sources: Mapping[str, WeightSource]
    bodies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    all_shared_inputs: tuple[SharedInput, ...] = ()
    _live: WeakValueDictionary[str, Array] = field(
        init=False, repr=False, compare=False, default_factory=WeakValueDictionary
    )

    @property
    def shared_inputs(self) -> tuple[SharedInput, ...]:
        """The shared inputs of which all members are among the sites."""
        ids = {site.id for site in self.sites}
        return tuple(shared for shared in self.all_shared_inputs if ids.issuperset(shared.members))

    def sharing(self, allowed: bool) -> Inventory:
        """Return the same, without shared inputs where weights are not allowed to share a first factor."""
        return self if allowed else replace(self, all_shared_inputs=())

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

    def moved(self, weights: Mapping[str, Array]) -> Inventory:
        """Return the same sites with other numbers: site id -> what arrives at its operators."""
        named = {site.weight: weights[site.id] for site in self.sites if site.id in weights}
        tensors = {name: onnx.numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in named.items()}
        sources = {key: replace(source, transforms=()) for key, source in self.sources.items() if key in weights}
        return replace(self, weights={**self.weights, **tensors}, sources={**self.sources, **sources})
