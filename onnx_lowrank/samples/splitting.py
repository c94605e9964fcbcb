"""Which samples calibrate, which gate, which are reported: disjoint by content, and by the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples.sets import Samples, Split

SCREENED, MOST_SCREENED, FEWEST = 1 / 8, 256, 16
"""The share of the calibration samples that nothing is fitted on, at most so many, and the fewest it is taken from."""


def make_split(
    data: Samples,
    validation: Samples | None = None,
    test: Samples | None = None,
    *,
    seed: int,
    share: float = 0.2,
    force: bool = False,
) -> Split:
    """Return the sets of a run; without `validation`, `share` of the data validate, drawn by the seed.

    Samples of equal content go to one side. Raises DataError where a sample is in two of the sets given, which
    `force` allows (a note says so), and where there are too few samples to draw from.
    """
    given = [data, validation, test]
    notes = _overlaps(given, force)
    calibration = data
    if validation is None:
        calibration, validation, note = _draw(data, seed, share)
        notes.append(note)
    done = dict.fromkeys(note for samples in given if samples is not None for note in samples.notes)
    fitted, screening = held_back(calibration)
    return Split(fitted, validation, test, (*notes, *done), screening)


def held_back(data: Samples) -> tuple[Samples, Samples | None]:
    """Return what is fitted on, and what plans are screened on: SCREENED of the samples, spread evenly; None of few.

    Whole groups go to one side; samples of equal content, too.
    """
    if len(data) < FEWEST:
        return data, None
    members = _linked(data.hashes, data.groups)
    count = min(round(SCREENED * len(data)), MOST_SCREENED)
    step = max(len(members) // max(count * len(members) // len(data), 1), 1)
    chosen = sorted(i for group in members[step - 1 :: step] for i in group)
    rest = sorted(set(range(len(data))) - set(chosen))
    return (data.subset(rest), data.subset(chosen)) if rest and chosen else (data, None)


def halves(data: Samples, seed: int) -> tuple[Samples, Samples]:
    """Return two halves of a set, drawn by the seed: whole groups and samples of equal content go to one side."""
    members = _linked(data.hashes, data.groups)
    order = np.random.default_rng(seed).permutation(len(members))
    first: list[int] = []
    for place in order:
        if 2 * len(first) < len(data):
            first += members[place]
    rest = sorted(set(range(len(data))) - set(first))
    return data.subset(sorted(first)), data.subset(rest)


def apart(count: int, most: int) -> tuple[list[int], list[int]]:
    """Return the numbers of samples to fit on and to score on: at most a quarter, at most `most`, spread over the set.

    A single sample is in both.
    """
    if count < 2:
        return list(range(count)), list(range(count))
    share = max(1, min(most, count // 4))
    score = sorted({int(i) for i in np.linspace(count - 1, 0, share).round()})
    return [i for i in range(count) if i not in set(score)], score


def _overlaps(sets: Sequence[Samples | None], force: bool) -> list[str]:
    """Return a note for every two sets with samples in common. Raises DataError for the first, unless forced."""
    notes = []
    known = [
        (role, samples)
        for role, samples in zip(("data", "validation", "test"), sets, strict=True)
        if samples is not None
    ]
    for i, (role, samples) in enumerate(known):
        for other_role, other in known[:i]:
            seen, known_groups = set(other.hashes), set(other.groups or ())
            common = sum(digest in seen for digest in samples.hashes)
            shared = sum(group in known_groups for group in samples.groups or ())
            if not common and not shared:
                continue
            what = "are also" if common else "share their group with samples"
            fact = (
                f"{common or shared} of the {len(samples)} samples of --{role} ({samples.source})"
                f" {what} in --{other_role} ({other.source})"
            )
            if not force:
                raise DataError(
                    f"{fact}: what is measured there would not be held out; give other samples,"
                    " or --force-overlap to allow it"
                )
            notes.append(f"{fact}: what is measured there is not held out (--force-overlap)")
    return notes


def _draw(data: Samples, seed: int, share: float) -> tuple[Samples, Samples, str]:
    """Return the calibration and the validation part of the data, and what to say about it."""
    if not 0 < share < 1:
        raise DataError(f"the share that validates must be between 0 and 1, not {share}")
    if len(data) < 2:
        raise DataError(
            f"{data.source}: 1 sample is too few to calibrate and to validate; give more (in a directory every file"
            " is one sample), or others as --validation"
        )
    chosen = _validating(_linked(data.hashes, data.groups), seed, share)
    if not chosen:
        raise DataError(
            f"{data.source}: all {len(data)} samples are equal, so none can be held out; give others as --validation"
        )
    rest = sorted(set(range(len(data))) - set(chosen))
    calibration, validation = data.subset(rest), data.subset(chosen)
    note = (
        f"no --validation given: {len(calibration)} of {data.source}'s {len(data)} samples calibrate,"
        f" {len(validation)} validate (seed {seed})"
    )
    return calibration, validation, note


def _linked(hashes: Sequence[str], groups: Sequence[str] | None) -> list[list[int]]:
    """Return the indices that go to one side together: of equal content, or of one group, or linked by both."""
    first: dict[tuple[str, str], int] = {}
    home = list(range(len(hashes)))

    def root(index: int) -> int:
        while home[index] != index:
            home[index] = home[home[index]]
            index = home[index]
        return index

    for index, digest in enumerate(hashes):
        for key in (("content", digest), *((("group", groups[index]),) if groups is not None else ())):
            ends = sorted((root(first.setdefault(key, index)), root(index)))
            home[ends[1]] = ends[0]
    members: dict[int, list[int]] = {}
    for index in range(len(hashes)):
        members.setdefault(root(index), []).append(index)
    return list(members.values())


def _validating(members: Sequence[list[int]], seed: int, share: float) -> list[int]:
    """Return the indices that validate: whole groups of what belongs together, in random order while they fit."""
    if len(members) < 2:
        return []
    count = sum(map(len, members))
    order = [members[i] for i in np.random.default_rng(seed).permutation(len(members))]
    room = min(max(1, round(share * count)), count - 1)
    chosen: list[int] = []
    for group in order:
        if len(chosen) + len(group) <= room:
            chosen += group
    # Every group is larger than the share: the smallest is the nearest to it.
    return sorted(chosen or min(order, key=len))
