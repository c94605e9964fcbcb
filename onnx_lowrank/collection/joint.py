"""The joint sensitivity of all sites, group by group: collect, fit, project, score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx_lowrank.collection.collect import collect
from onnx_lowrank.collection.collected import Collected
from onnx_lowrank.collection.fit import Fitted, fit
from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.labelled_order import in_labelled_order
from onnx_lowrank.collection.overflow import finite_scores, too_large
from onnx_lowrank.collection.project import project
from onnx_lowrank.collection.score import score
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.collection.shards import collect_in_shards
from onnx_lowrank.executors import Pool
from onnx_lowrank.numerics import linalg
from onnx_lowrank.progress import LOGGER
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
        group = group_scores(setups, sites, progress)
        totals = [total + one for total, one in zip(totals, group, strict=True)]
    return totals


def group_scores(
    setups: Sequence[CollectionSetup], sites: Sequence[Site], progress: Advance, pool: Pool | None = None
) -> list[JointScores]:
    """Return one group scored; collected once more without those sites that break every sample of a fold.

    pool: workers that have been told the first setup.
    """
    left_out: dict[str, str] = {}
    while True:
        attempt = _Attempt(setups, [site for site in sites if site.id not in left_out], pool)
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
    pool: Pool | None

    def run(self, progress: Advance) -> tuple[list[JointScores], dict[str, str]]:
        """Return what the sites give to every setup, and those that have to be left out first, with the reason."""
        first = self.setups[0]
        source = first.source(self.sites)
        linalg.trim()
        with linalg.Workers(first.options.runtime.threads) as workers:
            if self.pool is None or not source.sites:
                collected = collect(first, source, workers, progress=progress)
            else:
                collected = collect_in_shards(first, source, self.pool, progress=progress, said=LOGGER.warning)
            try:
                overflowing = too_large(collected)
                if overflowing:
                    return [], overflowing
                if collected.cache.open and not any(setup.objective.signed for setup in self.setups):
                    source.close()  # nothing is run again
                return self._scores(collected, source, workers, progress), {}
            finally:
                source.close()
                collected.cache.close()

    def _scores(
        self, collected: Collected, source: GradientSource, workers: linalg.Workers, progress: Advance
    ) -> list[JointScores]:
        """Return the scores of every setup; those of one loss are projected together, as many as fit in memory.

        Without labels the moments are used up at the end: those and the last bases are never in memory together.
        """
        scores: dict[int, JointScores] = {}
        waiting = sorted(self.setups, key=lambda setup: (not setup.labelled, not setup.options.first_order))
        while waiting:
            first, together = waiting[0], list[tuple[CollectionSetup, Fitted]]()
            room = first.options.memory
            while waiting and _same_loss(waiting[0], first) and (not together or together[-1][1].bytes <= room):
                setup = waiting.pop(0)
                release = not waiting and not setup.labelled
                linalg.trim()
                group, pool = setup.group(source.sites), self.pool
                together.append((setup, fit(collected, group, workers, pool, release=release)))
                room -= together[-1][1].bytes
            numbers = [self.setups.index(setup) for setup, _ in together]
            made = _scored(collected, source, together, workers, progress)
            scores |= dict(zip(numbers, made, strict=True))
            del together
        return [scores[number] for number in range(len(self.setups))]


def _same_loss(one: CollectionSetup, other: CollectionSetup) -> bool:
    """Whether two setups project the same samples with the same gradients."""
    return one.labelled == other.labelled and one.options.first_order == other.options.first_order


def _scored(
    collected: Collected,
    source: GradientSource,
    together: list[tuple[CollectionSetup, Fitted]],
    workers: linalg.Workers,
    progress: Advance,
) -> list[JointScores]:
    """Return the scores of setups of one loss; the list is emptied, so that bases are let go as they are used up."""
    first = together[0][0]
    fits = [fitted for _, fitted in together]
    groups = [setup.group(source.sites) for setup, _ in together]
    together.clear()
    linalg.trim()
    if first.labelled:
        fits = in_labelled_order(fits, collected, source, first, workers, progress=progress)
    projected = project(collected, fits, source, first, workers, progress=progress)
    fits = [fitted.without_first_fold() for fitted in fits]
    linalg.trim()
    broken = (frozenset(source.broken),) if source.sites else ()
    scores = []
    for group in groups:
        fitted = fits.pop(0)
        scored, overflowing = finite_scores(score(projected.pop(0), fitted, group, workers), group)
        scores.append(JointScores(scored, source.unreached, fitted.dead, overflowing, broken))
    return scores
