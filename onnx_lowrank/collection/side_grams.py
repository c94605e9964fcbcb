"""Second moments of the inputs and of the gradients at the outputs of every weight: what rounding is made up for by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_lowrank.collection.gradient_batch import GradientBatch
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.numerics import linalg
from onnx_lowrank.ops import Call
from onnx_lowrank.types import Array, Site
from onnx_lowrank.weights.compensation import SideGrams


def side_grams(
    setup: CollectionSetup,
    sites: Sequence[Site],
    numbers: Sequence[int],
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, SideGrams]:
    """Return site id -> its moments on the samples of these numbers, with the gradients of their scores.

    Sites that no gradient reaches are left out, and those of which a moment is not finite.
    """
    source = setup.source(sites, ends=True)
    found = {site.id: _Sums(site, setup.inventory.calls[site.id]) for site in source.sites}
    feeds = [setup.feeds[number] for number in numbers]
    for batch in source.run(feeds, numbers, setup.objective.sampled, batch=setup.batch, separate=setup.separate):
        with linalg.one_thread():
            for sums in found.values():
                sums.add(batch)
        progress(len(batch.numbers))
        del batch
    source.close()
    return {site: sums.grams for site, sums in found.items() if sums.finite}


def bytes_of(site: Site, *, looked_up: bool) -> int:
    """Return the bytes of a site's moments, and of as much again that is worked with."""
    inputs, outputs = site.shape[1], site.shape[0] // site.groups
    return 16 * (site.shape[1] if looked_up else site.groups * inputs**2) + 16 * site.groups * outputs**2


class _Sums:
    """The moments of one site, as they add up."""

    def __init__(self, site: Site, calls: Sequence[Call]) -> None:
        self._site, self._calls = site, calls
        inputs, outputs, groups = site.shape[1], site.shape[0] // site.groups, site.groups
        self._table = calls[0].observable == "outputs"
        self._A = np.zeros(inputs if self._table else (groups, inputs, inputs))
        self._B = np.zeros((groups, outputs, outputs))

    def add(self, batch: GradientBatch) -> None:
        for call, (x, gradient) in zip(self._calls, batch.ends(self._site), strict=True):
            vectors = call.op.vectors(call, np.asarray(x), self._site.shape[2:])
            if self._table:
                np.add.at(self._A, vectors, 1.0)
            else:
                self._A += self._gram(vectors)
            self._B += self._gram(call.op.results(call, np.asarray(gradient)))

    def _gram(self, rows: Array) -> Array:
        """Return (groups, d, d) of (positions, groups · d)."""
        rows = np.asarray(rows, np.float32)
        if self._site.groups == 1:
            return np.asarray(rows.T @ rows, np.float64)[None]
        parts = np.swapaxes(rows.reshape(len(rows), self._site.groups, -1), 0, 1)
        return np.asarray(np.swapaxes(parts, 1, 2) @ parts, np.float64)

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self._A).all() and np.isfinite(self._B).all())

    @property
    def grams(self) -> SideGrams:
        return SideGrams(self._A, self._B)
