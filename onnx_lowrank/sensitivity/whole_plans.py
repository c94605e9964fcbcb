"""Whole plans, measured: all weights of a plan are substituted at once, on as many samples as the answer needs.

A prediction is of every weight by itself; what a plan does is measured (docs/method.md, section 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_lowrank.metrics.divergence import Probing
from onnx_lowrank.runtime.batching import batches, join, split
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import Factors
from onnx_lowrank.sensitivity.substitution import LARGEST_LOSS, stored_weight, substitution
from onnx_lowrank.types import Array, Choice, FactorKey, Feed, Form
from onnx_lowrank.weights.inventory import Inventory

FEWEST, MOST = 32, 256
"""Samples of a first measurement, and at most."""
AIM, PRECISION = 0.15, 0.25
"""Samples are added, each time as many again, until the standard error is the first share of the mean (of few samples
with heavy tails it is itself too small); with the second a result says something."""
NOTHING = 1e-6
"""Losses below this drown in the float32 rounding of the model itself: no samples are added for them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured loss: the mean divergence of so many samples, and its standard error."""

    loss: float
    deviation: float
    samples: int

    @staticmethod
    def of(values: Array) -> Estimate:
        """Return the mean of (n,) divergences. One sample says nothing of its spread: all of it is taken for error."""
        mean, count = float(np.mean(values)), len(values)
        spread = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else mean
        return Estimate(mean, spread, count)

    @property
    def precise(self) -> bool:
        """Whether the standard error is small enough, or the loss is rounding."""
        return self.within(PRECISION)

    def within(self, share: float) -> bool:
        """Return whether the standard error is at most this share of the loss, or the loss is rounding."""
        return self.loss <= NOTHING or self.deviation <= share * self.loss


Picked = tuple[tuple[str, Form], ...]
"""What a measurement is of: site ids with what stands in their place."""
Run = tuple[Feed, list[Feed], list[dict[str, Array]]]
"""Samples joined, each of them, and the outputs of the model as it is."""


@dataclass(slots=True, eq=False)
class PlanMeter:
    """Measures choices together. runner: of a model whose weights can be replaced; runs: samples run, so far.

    memory: bytes that samples and the outputs of the model as it is may take; what is more is read and run again.

    Every measurement starts with the same samples, so two of them compare on what both were measured on.
    """

    runner: Runner
    inventory: Inventory
    factors: Callable[[FactorKey], Factors]
    feeds: Sequence[Feed]
    probing: Probing
    batch: int
    memory: int = 2**30
    advance: Callable[[int], None] = lambda count: None
    runs: int = 0
    _parts: dict[int, list[Run]] = field(default_factory=dict)
    _held: int = 0
    _known: dict[Picked, Array] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """How many samples a measurement may be on, in turn."""
        most, sizes = min(len(self.feeds), MOST), [min(len(self.feeds), FEWEST)]
        while sizes[-1] < most:
            sizes.append(min(2 * sizes[-1], most))
        return sizes

    def estimate(self, choices: Sequence[Choice]) -> Estimate:
        """Return the loss of the choices together, on the samples that its precision needs."""
        for size in self.sizes:
            result = Estimate.of(self.values(choices, size))
            if result.within(AIM):
                break
        return result

    def values(self, choices: Sequence[Choice], count: int) -> Array:
        """Return the divergences (n,) of at least the first `count` samples, where there are as many."""
        key = tuple((choice.site, choice.option.form) for choice in choices)
        known, weights = self._known.get(key, np.zeros(0)), None
        for part, size in enumerate(self.sizes):
            if len(known) >= min(count, self.sizes[-1]):
                break
            if len(known) < size:
                weights = weights or self._weights(choices)
                known = self._known[key] = np.concatenate([known, self._measured(weights, part)])
        return known

    def _weights(self, choices: Sequence[Choice]) -> dict[str, Array]:
        sites = {site.id: site for site in self.inventory.sites}
        fed: dict[str, Array] = {}
        for choice in choices:
            site, factors = sites[choice.site], self.factors((choice.site, choice.option.scheme))
            weight = stored_weight(self.inventory, site, factors, choice.option)
            fed |= substitution(self.inventory, site, weight)
        return fed

    def _measured(self, weights: Mapping[str, Array], part: int) -> Array:
        values: list[Array] = []
        for feed, run, expected in self._runs(part):
            found = split(self.runner.run({**feed, **weights}), run)
            values.append(self.probing.values(_listed(expected), _listed(found)))
            self._ran(len(run))
        return np.asarray(np.minimum(np.concatenate(values), LARGEST_LOSS))

    def _runs(self, part: int) -> Iterator[Run]:
        """Yield a part of the samples with the outputs of the model as it is: made once where memory allows it."""
        if part in self._parts:
            yield from self._parts[part]
            return
        order = np.random.default_rng(0).permutation(len(self.feeds))  # a set may be sorted
        ends, kept, held = [0, *self.sizes], [], self._held
        chosen = sorted(order[ends[part] : ends[part + 1]].tolist())
        for run in batches((self.feeds[i] for i in chosen), self.batch):
            feed = join(run)
            known = (feed, run, split(self.runner.run(feed), run))
            self._ran(len(run))
            held += sum(array.nbytes for each in (feed, *known[2]) for array in each.values())
            if held <= self.memory:
                kept.append(known)
            yield known
        if held <= self.memory:
            self._parts[part], self._held = kept, held

    def _ran(self, count: int) -> None:
        self.runs += count
        self.advance(count)


def _listed(samples: Sequence[Mapping[str, Array]]) -> dict[str, list[Array]]:
    """Return output name -> one value a sample."""
    return {name: [sample[name] for sample in samples] for name in samples[0]}
