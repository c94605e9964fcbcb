"""Two looks at a plan that is expected to be far from the limit: at a part of the samples, and if need be at all.

Such a plan is tested on the way to smaller ones. Which plans have two looks is fixed on calibration samples, before any
is validated, and the level is divided: a plan is falsely certified at one look or the other with a chance of at most
EARLY α + (1 − EARLY) α = α (Bonferroni), however the looks hang together. Plans near the limit have one look at the
full level. Right-or-wrong values alone, whose test is exact for any number of samples.
"""

from __future__ import annotations

import math
from dataclasses import replace

from onnx_lowrank.goals import Gate

EARLY = 0.2
"""The part of the level that the first look has."""
ROOM, FAR = 0.25, 0.5
"""What the first look would certify of a plan that loses nothing, and what it is expected to certify of those that have
it, at most, as shares of what is allowed."""
PART = 1 / 2
"""Of the samples that the first look takes at most: more would save little."""


def first_look(gate: Gate) -> Gate:
    """Return the gate of the first look."""
    return replace(gate, confidence=1 - EARLY * gate.alpha)


def second_look(gate: Gate) -> Gate:
    """Return the gate of the second, where the first did not certify."""
    return replace(gate, confidence=1 - (1 - EARLY) * gate.alpha)


def first_samples(n: int, gate: Gate, allowed: float) -> int:
    """Return how many of n samples the first look takes: as many as certify ROOM of what is allowed where nothing is
    lost. 0 where that is no small part of them.
    """
    wanted = math.ceil(math.log(EARLY * gate.alpha) / math.log1p(-min(ROOM * allowed, 0.5))) if allowed > 0 else n
    return wanted if wanted <= PART * n else 0
