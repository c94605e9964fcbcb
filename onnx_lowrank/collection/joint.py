"""The joint sensitivity of all sites, group by group: collect, fit, project, score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx_lowrank.collection.collect import collect
from onnx_lowrank.collection.collected import Collected
from onnx_lowrank.collection.fit import fit
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.labelled_order import in_labelled_order
from onnx_lowrank.collection.overflow import finite_scores, too_large
from onnx_lowrank.collection.project import project
from onnx_lowrank.collection.score import score
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.numerics import linalg
from onnx_lowrank.types import Site

Advance = Callable[[int], None]


def joint_scores(setup: CollectionSetup, progress: Advance = lambda count: None) -> JointScores:
    """Return every site scored, a group of sites that fits in memory at a time."""
    return joint_scores_of([setup], progress)[0]


def joint_scores_of(setups: Sequence[CollectionSetup], progress: Advance = lambda count: None) -> list[JointScores]:
    """Return every site scored for each of several setups, which may differ in exponents and labels: one collection.

    Raises ValueError where they differ in what is collected.
    """
    totals = [JointScores() for _ in setups]
    for sites in setups[0].groups():
        group = _group_scores(setups, sites, progress)
        totals = [total + one for total, one in zip(totals, group, strict=True)]
    return totals


def _group_scores(setups: Sequence[CollectionSetup], sites: Sequence[Site], progress: Advance) -> list[JointScores]:
    """Return one group scored; collected once more without those sites that break every sample of a fold."""
    left_out: dict[str, str] = {}
    while True:
        attempt = _Attempt(setups, [site for site in sites if site.id not in left_out])
        outcome, overflowing = attempt.run(progress)
        linalg.trim()
        if not overflowing:
            return [JointScores(overflowing=left_out) + one for one in outcome]
        left_out |= overflowing


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """Setups that share what is collected at a group of sites."""

    setups: Sequence[CollectionSetup]
    sites: Sequence[Site]

    def run(self, progress: Advance) -> tuple[list[JointScores], dict[str, str]]:
        """Return what the sites give to every setup, and those that have to be left out first, with the reason."""
        first = self.setups[0]
        source = first.source(self.sites)
        linalg.trim()
        with linalg.Workers(first.options.runtime.threads) as workers:
            collected = collect(first, source, workers, progress=progress)
            try:
                overflowing = too_large(collected)
                if overflowing:
                    return [], overflowing
                if collected.cache.open and not any(setup.objective.signed for setup in self.setups):
                    source.close()  # nothing is run again
                return self._all(collected, source, workers, progress), {}
            finally:
                source.close()
                collected.cache.close()

    @property
    def _last(self) -> CollectionSetup | None:
        """The setup that may use the moments up; none where all need them to put components in order."""
        return next((setup for setup in reversed(self.setups) if not setup.labelled), None)

    def _all(
        self, collected: Collected, source: GradientSource, workers: linalg.Workers, progress: Advance
    ) -> list[JointScores]:
        """Return the scores of every setup; the one that uses the moments up comes last."""
        last = self._last
        scores = {
            id(setup): _scored(collected, source, setup, workers, progress, release=setup is last)
            for setup in sorted(self.setups, key=lambda setup: setup is last)
        }
        return [scores[id(setup)] for setup in self.setups]


def _scored(
    collected: Collected,
    source: GradientSource,
    setup: CollectionSetup,
    workers: linalg.Workers,
    progress: Advance,
    *,
    release: bool,
) -> JointScores:
    """Return the scores of what was collected. release: its moments are used up, which bounds memory."""
    group = setup.group(source.sites)
    linalg.trim()
    fitted = fit(collected, group, workers, release=release)
    linalg.trim()
    if setup.labelled:
        fitted = in_labelled_order(fitted, collected, source, setup, workers, progress=progress)
    projected = project(collected, fitted, source, setup, workers, progress=progress)
    fitted = fitted.without_first_fold()
    linalg.trim()
    scored, overflowing = finite_scores(score(projected, fitted, group, workers), group)
    return JointScores(
        scored,
        source.unreached,
        fitted.dead,
        overflowing,
        (frozenset(source.broken),) if source.sites else (),
    )
