"""The joint sensitivity: a two-sided basis for every site, and the exact Gauss-Newton rise of every rank.

Pass 1 sums moments, pass 2 projects single samples on the basis (docs/method.md, 3.1, 3.2). Both are cross-fitted: the
samples are dealt into folds, and a sample is scored by a basis that was fitted without its fold, so that directions
which the samples do not reach do not look free. The factors themselves use all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_lowrank.collection import ObservedPositions
from onnx_lowrank.collection.forward_backward import JointFlow
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.projected_sides import looked_at, width_of
from onnx_lowrank.collection.scores import Joint, Scores
from onnx_lowrank.collection.two_pass import Passes
from onnx_lowrank.gradient.emitter import Dims
from onnx_lowrank.numerics import linalg
from onnx_lowrank.numerics.kronecker_metric import TwoSidedMetric
from onnx_lowrank.options import Options
from onnx_lowrank.types import Feed, Site
from onnx_lowrank.weights.inventory import Inventory

FOLDS = 2
SCORED = 128
"""Samples that are scored, over all folds: a third of them, but not more than this, nor fewer than LEAST_SCORED."""
LEAST_SCORED = 64
BLOCK = 8
"""Neighbours stay in one fold: they may come from one recording, one document, one photo."""
BYTES_PER_ACTIVATION = 10
"""Bytes that a run takes for each byte of the sites' inputs and outputs: gradients, and all that lies between."""


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """All that the two passes need. `separate`: rows of a batch can be told apart at every site.

    score: samples to score, over all folds; None: by the rule of SCORED. flights: batches run at a time.
    """

    model: onnx.ModelProto
    inventory: Inventory
    observed: ObservedPositions
    feeds: Sequence[Feed]
    objective: Objective
    shapes: Mapping[str, Dims]
    options: Options
    batch: int
    separate: bool
    metric: TwoSidedMetric = "joint"
    score: int | None = None
    concurrent_batches: int = 1

    def run(self, progress: Callable[[int], None] | None = None) -> Joint:
        """Return every site scored, a group of sites that fits in memory at a time."""
        joint = Joint()
        broken: list[set[int]] = []
        for group in self.groups():
            flow = self._gone_through(group, joint, progress or (lambda n: None))
            broken.extend([flow.broken] if flow.sites else [])
        joint.broken = set().union(*broken)
        joint.uneven = any(one != joint.broken for one in broken)
        return joint

    def _gone_through(self, group: Sequence[Site], joint: Joint, progress: Callable[[int], None]) -> JointFlow:
        """Put what one group of sites gives into `joint`; once more without those that break every sample of a fold."""
        while True:
            flow = JointFlow(
                self.model,
                self.inventory,
                group,
                self.objective.seeded,
                self.shapes,
                self.options.runtime,
                self.concurrent_batches,
            )
            linalg.trim()
            joint.unreached |= flow.unreached
            overflowing = Passes(self, flow, joint, progress).run()
            linalg.trim()
            if not overflowing:
                return flow
            joint.overflowing |= overflowing
            group = [site for site in group if site.id not in overflowing]

    def groups(self) -> Iterator[list[Site]]:
        """Yield neighbouring sites whose moments, bases and activations fit in the memory allowed; siblings together.

        Sites that do not fit are a group all the same.
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

    def fitted_to_memory(self) -> Collection:
        """Return the collection with as much at a time as lets one group hold all sites, or with single samples.

        The choice does not depend on the machine's cores, so neither do the results.
        """
        for batch, concurrent_batches in ((4, 2), (2, 2), (1, 2)):
            smaller = replace(self, batch=min(batch, self.batch), concurrent_batches=concurrent_batches)
            if sum(smaller.needs.values()) <= self.options.memory:
                return smaller
        return replace(self, batch=1, concurrent_batches=1)

    def _inseparable(self) -> Iterator[list[Site]]:
        """Yield every site, with all its siblings where the first of them stands."""
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
            site.id: sum(32 * FOLDS * site.groups * width_of(site, side) ** 2 for side in sides)
            + runs * self.observed.bytes[site.id]
            for site, sides in zip(self.inventory.sites, looked_at(self.inventory).values(), strict=True)
        }

    @property
    def passes(self) -> int:
        """Return how many samples are run, all groups and both passes together."""
        return sum(1 for _ in self.groups()) * (len(self.feeds) + sum(map(len, self.parts_scored())))

    def parts(self) -> list[list[int]]:
        """Return the samples of every fold: blocks of neighbours, dealt in turn."""
        count = len(self.feeds)
        block = max(min(BLOCK, count // (2 * FOLDS)), 1)
        return [[i for i in range(count) if i // block % FOLDS == fold] for fold in range(FOLDS)]

    def parts_scored(self) -> list[list[int]]:
        """Return the samples of every fold that are scored, spread over it."""
        chosen = []
        for part in self.parts():
            rule = min(SCORED, max(len(self.feeds) // 3, LEAST_SCORED))
            most = max((rule if self.score is None else self.score) // FOLDS, 1)
            picks = np.unique(np.linspace(0, len(part) - 1, min(len(part), most)).round().astype(int))
            chosen.append([part[i] for i in picks] if part else [])
        return chosen


def notes_of(joint: Joint, samples: int, options: Options) -> tuple[str, ...]:
    """Return what a user has to know of a collection: samples and terms that were left out, and why."""
    notes = []
    count = len(joint.broken)
    if count:
        said = "was left out: its gradients are" if count == 1 else "were left out: their gradients are"
        notes.append(f"{count} of {samples} calibration samples {said} not finite")
    if joint.overflowing:
        count = len(joint.overflowing)
        which = "1 weight is left as it is" if count == 1 else f"{count} weights are left as they are"
        notes.append(f"{which}: inputs or gradients there are not finite, or too large for float32")
    if options.inter_layer and (joint.unreached or joint.uneven):
        why = "some weights have no gradient" if joint.unreached else "not all weights have the same samples"
        notes.append(f"--inter-layer is left out: {why}")
    return tuple(notes)


__all__ = ["Collection", "Joint", "Scores"]
