"""Which samples calibrate, which gate, which are reported: disjoint by content, and by the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples.sets import Samples, Split


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
    notes: list[str] = []
    calibration = data
    if validation is None:
        notes += _overlaps([data, test], ["data", "test"], force)
        calibration, validation, note = _draw(data, seed, share)
        notes.append(note)
    else:
        notes += _overlaps([data, validation, test], ["data", "validation", "test"], force)
    given = [samples for samples in (data, validation, test) if samples is not None]
    done = dict.fromkeys(note for samples in given for note in samples.notes)
    return Split(calibration, validation, test, (*notes, *done))


def _overlaps(sets: Sequence[Samples | None], roles: Sequence[str], force: bool) -> list[str]:
    """Return a note for every two sets with samples in common. Raises DataError for the first, unless forced."""
    notes = []
    known = [(role, samples) for role, samples in zip(roles, sets, strict=True) if samples is not None]
    for i, (role, samples) in enumerate(known):
        for other_role, other in known[:i]:
            common = len(_common(samples, other))
            if not common:
                continue
            fact = (
                f"{common} of the {len(samples)} samples of --{role} ({samples.source})"
                f" are also in --{other_role} ({other.source})"
            )
            if not force:
                raise DataError(
                    f"{fact}: what is measured there would not be held out; give other samples,"
                    " or --force-overlap to allow it"
                )
            notes.append(f"{fact}: what is measured there is not held out (--force-overlap)")
    return notes


def _common(samples: Samples, other: Samples) -> list[int]:
    seen = set(other.hashes)
    return [index for index, digest in enumerate(samples.hashes) if digest in seen]


def _draw(data: Samples, seed: int, share: float) -> tuple[Samples, Samples, str]:
    """Return the calibration and the validation part of the data, and what to say about it."""
    if not 0 < share < 1:
        raise DataError(f"the share that validates must be between 0 and 1, not {share}")
    if len(data) < 2:
        raise DataError(
            f"{data.source}: 1 sample is too few to calibrate and to validate; give more (in a directory every file"
            " is one sample), or others as --validation"
        )
    chosen = _validating(data.hashes, seed, share)
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


def _validating(hashes: Sequence[str], seed: int, share: float) -> list[int]:
    """Return the indices that validate: whole groups of equal samples, in random order while they fit."""
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(hashes):
        groups.setdefault(digest, []).append(index)
    if len(groups) < 2:
        return []
    members = list(groups.values())
    order = [members[i] for i in np.random.default_rng(seed).permutation(len(members))]
    room = min(max(1, round(share * len(hashes))), len(hashes) - 1)
    chosen: list[int] = []
    for group in order:
        if len(chosen) + len(group) <= room:
            chosen += group
    # Every group is larger than the share: the smallest is the nearest to it.
    return sorted(chosen or min(order, key=len))
