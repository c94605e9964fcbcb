"""Weights replaced by what a plan would make of them, alone or all together: for parts "floor" and "prediction"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import workbench as wb
from benchmarks.workbench import Workbench
from onnx_lowrank import Samples, Session


class Substitution:
    """One session in which any weight of a collected session can be replaced, and the original's outputs on samples."""

    def __init__(self, bench: Workbench, session: Session, samples: Samples) -> None:
        self.curves = session.state.calibrated.decomposed.curves
        self.inventory = session.inventory_of(session.state)
        self.sites = {site.id: site for site in self.inventory.sites}
        weights = [self.sites[curve.site].weight for curve in session.state.curves]
        self.session, self.runner = session, bench.runner(wb.overridable(session.loaded.model, weights))
        self.reference = wb.Reference(self.runner, samples.feeds)

    def outputs(self, site: str, option: wb.Option) -> Iterator[tuple[Any, Any]]:
        """Yield (original's outputs, outputs with one weight at one option alone), sample by sample."""
        yield from self.together({site: option})

    def together(self, options: Mapping[str, wb.Option]) -> Iterator[tuple[Any, Any]]:
        """Yield the same with several weights at an option each."""
        factors, values = self.session.state.calibrated.decomposed.factors, {}
        for site, option in options.items():
            found = factors.get((site, option.scheme))  # the weight itself, in a number format, has none
            value = wb.stored_weight(self.inventory, self.sites[site], found, option)
            values[self.sites[site].weight] = value
        for feeds, outputs in self.reference.batches():
            yield from zip(outputs, wb.split(self.runner.run({**wb.join(feeds), **values}), feeds), strict=True)

    def loss(self, pair: tuple[Any, Any]) -> float:
        return min(float(self.session.state.calibrated.objective.divergence(*pair, 1)), wb.LARGEST_LOSS)
