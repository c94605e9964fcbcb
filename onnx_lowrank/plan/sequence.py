"""Fixed-sequence testing: plans in an order fixed beforehand, each tested at the full level until one is not rejected.

The hypotheses "the drop of plan i is as large as allowed" are tested in order; the first that cannot be rejected ends
the sequence, and all before it are rejected. The chance of any false rejection is that of a single test, however many
plans there are (Maurer, Hothorn and Lehmacher 1995; as risk control: Learn then Test, arXiv 2110.01052). What makes it
valid is that neither the plans nor their order hang on the samples that test them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np

from onnx_lowrank.types import Plan

DENSE = 1.35
"""Neighbours' divergences where the answer is expected: sizes then differ by about a twentieth."""
FACTORS = (1 / 512, 1 / 64, 1 / 16, 1 / 6, *(DENSE**step / 3 for step in range(17)), 64.0, 256.0)
"""Divergences to plan for, in units of the one at which the answer is expected (decisions change by the root of it):
dense there, and from far below, since a first plan that is not certified ends it all."""
ROUNDING = 1e-9
"""Divergences below this share of the largest are equal: what they differ by is rounding."""


def fixed_sequence(plans: Sequence[Plan]) -> Generator[Plan, bool, None]:
    """Yield the plans in order while each is certified: send back whether the last one was."""
    for plan in plans:
        if not (yield plan):
            return


def places(divergences: Sequence[float], expected: float) -> list[int]:
    """Return which of the plans, mildest first, to test: FACTORS of the `expected` divergence, and the smallest plan.

    `divergences`: (plans,) of all that could be tested, rising but for noise, which is ironed out.
    """
    rising = np.maximum.accumulate(np.asarray(divergences, np.float64))
    picks = [int(np.searchsorted(rising, expected * factor, side="right")) - 1 for factor in FACTORS]
    return sorted({max(pick, 0) for pick in picks} | {len(rising) - 1})


def interpolated(losses: Sequence[float], at: Sequence[int], measured: Sequence[float]) -> list[float]:
    """Return the divergence of every plan from those `measured` at a few: along the predicted loss, both in logarithms.

    Beyond the measured ones it goes on in proportion to the predicted loss.
    """
    least = max(max(losses), max(measured), 1e-30) * ROUNDING
    known = sorted({index: max(value, least) for index, value in zip(at, measured, strict=True)}.items())
    predicted = np.log(np.maximum(np.maximum.accumulate(np.asarray(losses, np.float64)), least))
    x = predicted[[index for index, _ in known]]
    y = np.maximum.accumulate(np.log([value for _, value in known]))
    inside = np.interp(predicted, x, y)
    below, above = np.minimum(predicted - x[0], 0.0), np.maximum(predicted - x[-1], 0.0)
    return [math.exp(value) for value in inside + below + above]
