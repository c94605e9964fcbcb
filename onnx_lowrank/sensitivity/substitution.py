"""Substitution: a site's weight is replaced by feeding another array in its place, and the outputs move.

How far they move, the divergence, is the measured loss of a change, whatever it is: a truncation, rounding, both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_lowrank.graph.editing import overridable
from onnx_lowrank.options import Runtime
from onnx_lowrank.passes.placement import placed
from onnx_lowrank.runtime.batching import batches, join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import Factors
from onnx_lowrank.schemes.product import product
from onnx_lowrank.types import DENSE, Array, Chain, Feed, Option, Site, Stage
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.transforms import as_type

SMALLEST = 1e-7
"""Errors below this share drown in float32 rounding."""
LARGEST_LOSS = 1e6
"""In place of infinity, with which no solver can reckon."""

Divergence = Callable[[Mapping[str, Array], Mapping[str, Array], int], float]
"""(outputs of the original, of the candidate, samples in this feed) -> their summed divergence."""


@dataclass(frozen=True, slots=True, eq=False)
class Substitutions:
    """A model whose weights can be replaced, and its own outputs on some samples.

    batches: (joined samples, how many they are, the outputs with the weights that the model has).
    """

    runner: Runner
    inventory: Inventory
    batches: Sequence[tuple[Feed, int, Mapping[str, Array]]]
    samples: int
    divergence: Divergence

    @staticmethod
    def of(
        model: onnx.ModelProto,
        inventory: Inventory,
        sites: Sequence[Site],
        feeds: Sequence[Feed],
        divergence: Divergence,
        runtime: Runtime,
        *,
        batch: int = 1,
    ) -> Substitutions:
        """Open a model in which the weights of `sites` can be replaced, and run it as it is on all of `feeds`."""
        runner = Runner(substitutable(model, inventory, sites), runtime=runtime)
        joined = [(join(run), len(run)) for run in batches(feeds, batch)]
        runs = [(feed, count, runner.run(feed)) for feed, count in joined]
        return Substitutions(runner, inventory, runs, len(feeds), divergence)

    def loss(self, site: Site, weight: Array) -> float:
        """Return the mean divergence of a sample, 0 to LARGEST_LOSS, with another weight, as it arrives, at a site."""
        replaced = substitution(self.inventory, site, weight)
        total = sum(
            self.divergence(expected, self.runner.run({**feed, **replaced}), count)
            for feed, count, expected in self.batches
        )
        return min(max(float(total), 0.0) / self.samples, LARGEST_LOSS)


def stored_weight(inventory: Inventory, site: Site, factors: Factors, option: Option) -> Array:
    """Return the dense weight that the option stands for, as it arrives at the operators.

    Where factors are rounded to be stored it is the product of the rounded ones: the loss of rounding is measured, too.
    """
    form, storage = option.form, inventory.storage(site, option.form.storage)
    if not storage.narrow:
        return arriving(inventory, site, factors.dense(form.ranks))
    return arriving(
        inventory, site, product(inventory.seen(site, stored_chain(inventory, site, factors, option), form.storage))
    )


def stored_chain(inventory: Inventory, site: Site, factors: Factors | None, option: Option) -> Chain:
    """Return the chain that an option stores, before it is rounded. factors: None where the weight stays whole."""
    form = option.form
    if form.scheme == DENSE or factors is None:
        return inventory.whole(site)
    chain = factors.chain(form.ranks)
    if not form.interpolative:
        return chain
    able = replace(site, identity=("in",)) if option.shared_input else site
    return placed(chain, able, inventory.storage(site, form.storage)).chain


def arriving(inventory: Inventory, site: Site, dense: Array) -> Array:
    """Return a canonical weight (out, in, *spatial) as it arrives at the operators, in their layout and type."""
    stage = Stage(dense, tuple(range(dense.ndim - 2)), site.groups)
    stored = inventory.calls[site.id][0].stored(stage)
    return np.ascontiguousarray(as_type(stored, inventory.sources[site.id].storage.arrives))


def substitution(inventory: Inventory, site: Site, weight: Array) -> dict[str, Array]:
    """Return what to feed an `overridable` model so that a weight, as it arrives, is another one."""
    return inventory.sources[site.id].replaced(weight)


def substitutable(model: onnx.ModelProto, inventory: Inventory, sites: Sequence[Site]) -> onnx.ModelProto:
    """Return a copy of the model in which these sites' weights are optional inputs."""
    made: dict[str, Array] = {}
    for site in sites:
        source = inventory.sources[site.id]
        if source.transforms:
            arrives = source.replaced(source.value(inventory.weights[site.weight]))
            made |= {entry: array for entry, array in arrives.items() if entry != site.weight}
    return overridable(model, [name for site in sites for name in inventory.sources[site.id].entries], made)
