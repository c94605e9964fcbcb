"""The joint sensitivity of all sites, group by group: collect, fit, project, score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    total = JointScores()
    for sites in setup.groups():
        total += _group_scores(setup, sites, progress)
    return total


def _group_scores(setup: CollectionSetup, sites: Sequence[Site], progress: Advance) -> JointScores:
    """Return one group scored; collected once more without those sites that break every sample of a fold."""
    total = JointScores()
    while True:
        outcome, overflowing = _attempt(setup, sites, progress)
        linalg.trim()
        total += outcome
        if not overflowing:
            return total
        total += JointScores(overflowing=overflowing)
        sites = [site for site in sites if site.id not in overflowing]


def _attempt(setup: CollectionSetup, sites: Sequence[Site], progress: Advance) -> tuple[JointScores, dict[str, str]]:
    """Return what a group of sites gives, and the sites that have to be left out first, with the reason, if any."""
    source = setup.source(sites)
    linalg.trim()
    with linalg.Workers(setup.options.runtime.threads) as workers:
        collected = collect(setup, source, workers, progress=progress)
        try:
            overflowing = too_large(collected)
            if overflowing:
                return JointScores(unreached=source.unreached), overflowing
            return _scored(collected, source, setup, workers, progress), {}
        finally:
            collected.cache.close()


def _scored(
    collected: Collected, source: GradientSource, setup: CollectionSetup, workers: linalg.Workers, progress: Advance
) -> JointScores:
    """Return the scores of what was collected; its moments are used up, but where components are put in order."""
    group = setup.group(source.sites)
    if collected.cache.open and not setup.objective.signed:
        source.close()  # nothing is run again
    linalg.trim()
    fitted = fit(collected, group, workers, release=not setup.labelled)
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
