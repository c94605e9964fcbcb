"""What a joint collection needs to know: model, sites, samples, the loss, and how much is run at a time.

Moments are summed and single samples are projected on bases (docs/method.md, 3.1, 3.2), both cross-fitted: the samples
are dealt into folds, and a sample is scored by a basis that was fitted without its fold, so that directions which the
samples do not reach do not look free. The factors themselves use all samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_lowrank.collection.folds import FOLDS, Folds
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.key import CollectedSide, CollectionKey
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.collection.projected_sides import looked_at, width_of
from onnx_lowrank.collection.side_moments import Thinning, thinned
from onnx_lowrank.collection.site_group import SiteGroup
from onnx_lowrank.errors import GoalError
from onnx_lowrank.gradient.emitter import Dims
from onnx_lowrank.numerics.kronecker_metric import TwoSidedMetric
from onnx_lowrank.options import DEFAULT_MEMORY, Options
from onnx_lowrank.samples import Samples
from onnx_lowrank.types import Feed, SideName, Site
from onnx_lowrank.weights.inventory import Inventory

LABELLED = 1024
"""Samples that the first-order term of a labelled loss is estimated on, over all folds.

On 128 of them (SCORED) it is smaller than its noise: of 86 options of an MLP trained with 40 % random labels 7 had a
term, and none changed the plan; on 1,750 samples 32 had one.
"""
BYTES_OF_A_SIDE = 32 * FOLDS
"""Bytes of a side's moments and bases, for each square of its width."""
BYTES_PER_ACTIVATION = 10
"""Bytes that a run takes for each byte of the sites' inputs and outputs: gradients, and all that lies between."""


@dataclass(frozen=True, slots=True, eq=False)
class CollectionSetup:
    """model: what has gradients (a float32 twin), `digest` that of the model it stands for.

    separate: rows of a batch can be told apart at every site. score: samples to score, over all folds; None: by the
    rule of `Folds`. concurrent_batches: run at a time.
    """

    model: onnx.ModelProto
    digest: str
    inventory: Inventory
    observed: ObservedPositions
    samples: Samples
    objective: Objective
    shapes: Mapping[str, Dims]
    options: Options
    batch: int
    separate: bool
    metric: TwoSidedMetric = "joint"
    score: int | None = None
    concurrent_batches: int = 1

    @property
    def feeds(self) -> Sequence[Feed]:
        """The samples' inputs."""
        return self.samples.feeds

    @property
    def folds(self) -> Folds:
        """The folds of all samples."""
        return Folds.of(len(self.samples), self.score)

    @property
    def scoring(self) -> int:
        """How many samples are run, or projected, for the scores of a group of sites."""
        first_order = sum(map(len, self.sloped)) if self.options.first_order else 0
        order = 2 * len(self.samples) if self.labelled else 0
        return sum(map(len, self.folds.scored)) + first_order + order

    @property
    def labelled(self) -> bool:
        """Whether the loss has labels, which choose the components that are kept as well as their number."""
        return self.options.objective == "labels"

    @property
    def sloped(self) -> tuple[tuple[int, ...], ...]:
        """By fold, the samples whose first-order term counts: where it is to choose, more than are scored."""
        return self.folds.spread(LABELLED) if self.options.first_order else self.folds.scored

    def source(self, sites: Sequence[Site], *, ends: bool = False) -> GradientSource:
        """Open some sites' forward and backward graph. ends: with the calls' inputs and output gradients alone."""
        return GradientSource(
            self.model,
            self.inventory,
            sites,
            self.objective.seeded,
            self.shapes,
            self.options.runtime,
            self.concurrent_batches,
            ends=ends,
        )

    def group(self, sites: Sequence[Site]) -> SiteGroup:
        """Return what is collected at some sites."""
        options = self.options
        return SiteGroup.of(self.inventory, sites, self.metric, options.rank_multiple, options.exponents)

    def thinning(self, site: Site, side: SideName) -> Thinning:
        """Return which of a side's positions moments are sums of."""
        return thinned(site, side, self.observed, len(self.samples))

    def key(self, group: SiteGroup, folds: Folds) -> CollectionKey:
        """Return the name of what is collected at a group of sites on these samples."""
        hashes = self.samples.hashes
        return CollectionKey(
            model=self.digest,
            objective=self.objective.identity,
            seed=self.options.seed,
            samples=tuple(tuple((number, hashes[number]) for number in part) for part in folds.parts),
            scored=folds.scored,
            sites=tuple(site.id for site in group.sites),
            sides=tuple(CollectedSide(site.id, side, *self.thinning(site, side)) for site, side in group.sides),
            chains=tuple(site.id for site in group.chain_sites),
            batch=self.batch,
            separate=self.separate,
            memory=self.options.memory,
            provider=self.options.runtime.provider,
        )

    def groups(self) -> Iterator[list[Site]]:
        """Yield neighbouring sites whose moments, bases and activations fit in the memory allowed.

        The weights of a shared input are together. Sites that do not fit are a group all the same.
        """
        group: list[Site] = []
        held, needs = 0, self.needs
        for sites in self._inseparable():
            need = sum(needs[site.id] for site in sites)
            if group and held + need > self.options.memory:
                yield group
                group, held = [], 0
            group.extend(sites)
            held += need
        if group:
            yield group

    def fitted_to_memory(self) -> CollectionSetup:
        """Return the setup with as much at a time as lets one group hold all sites, or with single samples.

        The choice does not depend on the machine's cores, so neither do the results.
        """
        for batch, concurrent_batches in ((4, 2), (2, 2), (1, 2)):
            smaller = replace(self, batch=min(batch, self.batch), concurrent_batches=concurrent_batches)
            if sum(smaller.needs.values()) <= self.options.memory:
                return smaller
        return replace(self, batch=1, concurrent_batches=1)

    def check_memory(self) -> None:
        """Raise GoalError where a bound that was asked for cannot be kept, with the least that can."""
        alone = replace(self, batch=1, concurrent_batches=1)
        needs, asked = alone.needs, self.options.memory
        sites = max(alone._inseparable(), key=lambda sites: sum(needs[site.id] for site in sites), default=[])
        least = sum(needs[site.id] for site in sites)
        if least <= asked or asked == DEFAULT_MEMORY:
            return
        what = f"weight {sites[0].weight!r}" + (f" and {len(sites) - 1} that share its input" if sites[1:] else "")
        raise GoalError(
            f"--memory {asked / 1e6:,.0f}MB cannot be kept: {what} alone takes {least / 1e6:,.0f} MB to collect;"
            f" give --memory {math.ceil(least / 1e6)}MB or more, or leave it out with --exclude"
        )

    def _inseparable(self) -> Iterator[list[Site]]:
        """Yield every site, with all weights of its shared input where the first of them stands."""
        sites = {site.id: site for site in self.inventory.sites}
        members_by_site = {
            member: shared.members for shared in self.inventory.shared_inputs for member in shared.members
        }
        for key in list(sites):
            together = [sites.pop(member) for member in members_by_site.get(key, (key,)) if member in sites]
            if together:
                yield together

    @property
    def needs(self) -> dict[str, int]:
        """Site id -> bytes: moments and bases of every fold, and z, e of the batches at hand."""
        runs = BYTES_PER_ACTIVATION * self.batch * self.concurrent_batches
        return {
            site.id: sum(BYTES_OF_A_SIDE * site.groups * width_of(site, side) ** 2 for side in sides)
            + runs * self.observed.bytes[site.id]
            for site, sides in zip(self.inventory.sites, looked_at(self.inventory).values(), strict=True)
        }


def passes(setups: Sequence[CollectionSetup]) -> int:
    """Return how many samples are run for setups that share a collection, counted for each that projects them."""
    first = setups[0]
    return sum(1 for _ in first.groups()) * (len(first.samples) + sum(setup.scoring for setup in setups))
