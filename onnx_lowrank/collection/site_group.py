"""A group of sites that is collected together: its sides, its shared inputs, and its chains that project no side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from onnx_lowrank.collection.projected_sides import looked_at, sides_of
from onnx_lowrank.collection.sample_cache import CacheKey
from onnx_lowrank.numerics.kronecker_metric import WHOLE, Exponents, TwoSidedMetric
from onnx_lowrank.schemes import ChainScheme, fitting
from onnx_lowrank.types import Array, Ranks, SharedInput, SideName, Site
from onnx_lowrank.weights.inventory import Inventory

Side: TypeAlias = tuple[Site, SideName]


@dataclass(frozen=True, slots=True, eq=False)
class ChainPair:
    """A site and a scheme that projects no side of it, with the ranks that it offers."""

    site: Site
    scheme: ChainScheme
    ranks: tuple[Ranks, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Site id and the scheme's name."""
        return self.site.id, self.scheme.name


@dataclass(frozen=True, slots=True, eq=False)
class SiteGroup:
    """inventory: of the whole model. shared_inputs: those all of whose weights are in the group.

    sides: all that are looked at, in the sites' order. multiple: of ranks. exponents: of both sides of
    the joint metric.
    """

    inventory: Inventory
    sites: tuple[Site, ...]
    shared_inputs: tuple[SharedInput, ...]
    sides: tuple[Side, ...]
    chains: tuple[ChainPair, ...]
    metric: TwoSidedMetric
    multiple: int
    exponents: Exponents = WHOLE

    @staticmethod
    def of(
        inventory: Inventory,
        sites: Sequence[Site],
        metric: TwoSidedMetric,
        multiple: int,
        exponents: Exponents = WHOLE,
    ) -> SiteGroup:
        """Return what is collected at some sites; chains in the joint metric alone."""
        here = replace(inventory, sites=tuple(sites))
        looked = looked_at(here, multiple)
        chains = (
            ChainPair(site, scheme, tuple(ranks))
            for site in (sites if metric == "joint" else ())
            for scheme, ranks in fitting(site, multiple)
            if isinstance(scheme, ChainScheme)
        )
        sides = tuple((site, side) for site in sites for side in looked[site.id])
        return SiteGroup(inventory, here.sites, here.shared_inputs, sides, tuple(chains), metric, multiple, exponents)

    def weight(self, site: Site) -> Array:
        """Return a site's weight, read-only: the one array that all share who hold it."""
        return self.inventory.stored(site)

    @property
    def projected(self) -> list[Side]:
        """The sides that schemes of the sites themselves project: without inputs that only a shared factor does."""
        return [(site, side) for site, side in self.sides if side in sides_of(site, self.multiple)]

    @property
    def sharing(self) -> list[Site]:
        """The sites of the weights of all shared inputs."""
        by_id = {site.id: site for site in self.sites}
        return [by_id[member] for shared in self.shared_inputs for member in shared.members]

    @property
    def same_input(self) -> dict[CacheKey, CacheKey]:
        """The inputs of all weights of a shared input but the first -> those of the first, which are the same."""
        return {(m, "in"): (shared.members[0], "in") for shared in self.shared_inputs for m in shared.members[1:]}

    @property
    def chain_sites(self) -> list[Site]:
        """The sites that have chains."""
        return list({chain.site.id: chain.site for chain in self.chains}.values())
