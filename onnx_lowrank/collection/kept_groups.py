"""Groups of sites scored once: what was finished is read from the cache, and a run that was cut off goes on there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from onnx_lowrank.collection.joint import group_scores
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup, passes
from onnx_lowrank.collection.shards import kept_here, work_of
from onnx_lowrank.executors import Pool, opened
from onnx_lowrank.progress import LOGGER, Progress, Silent
from onnx_lowrank.store import recalled, remembered, spilled
from onnx_lowrank.types import Site

STEP = "calibrating"
ROOM = 4
"""Factors of a group that take more than this part of the memory allowed lie in a file."""


def kept_scores(setups: Sequence[CollectionSetup], progress: Progress) -> list[JointScores]:
    """Return every site scored for each of several setups, as `joint_scores_of` does, those of the cache not again.

    Nothing is kept of a loss of the user's own, as what its code imports is not seen.
    """
    first, groups = setups[0], list(setups[0].groups())
    place = None if any(setup.objective.custom is not None for setup in setups) else first.options.cache
    done: dict[int, list[JointScores]] = {}
    for number, sites in enumerate(groups):
        found = recalled(place, progress, STEP, partial(_parts, setups, sites))
        if found is not None:
            done[number] = spilled(found, first.options.memory // ROOM)
    rest = [number for number in range(len(groups)) if number not in done]
    if rest:
        with progress.step(STEP, passes(setups) // len(groups) * len(rest)) as advance, _workers(first) as pool:
            for number in rest:
                sites = groups[number]
                make, parts = partial(group_scores, setups, sites, advance, pool), partial(_parts, setups, sites)
                made = remembered(place, Silent(), STEP, parts, make)
                done[number] = spilled(made, first.options.memory // ROOM)
                del made
    totals = [JointScores() for _ in setups]
    for number in range(len(groups)):
        totals = [total + one for total, one in zip(totals, done.pop(number), strict=True)]
    return totals


def _workers(setup: CollectionSetup) -> AbstractContextManager[Pool | None]:
    """Return the workers that collect, where an executor is asked for and they can."""
    options = setup.options
    if options.executor is None:
        return nullcontext()
    if why := kept_here(setup):
        LOGGER.warning("--executor is left out: %s", why)
        return nullcontext()
    return opened(options.executor, work_of(setup), options.runtime.threads)


def _parts(setups: Sequence[CollectionSetup], sites: Sequence[Site]) -> list[object]:
    """Return all that the scores of a group depend on: what is collected, and how each setup fits and scores it."""
    first = setups[0]
    each = [
        (setup.options.collecting, setup.objective.identity, setup.objective.signed, setup.metric, setup.score)
        for setup in setups
    ]
    labels = first.samples.identity if any(setup.objective.labels is not None for setup in setups) else ""
    shared = first.inventory.shared_inputs
    return [first.key(first.group(sites), first.folds).text, tuple(sites), shared, tuple(each), labels]
