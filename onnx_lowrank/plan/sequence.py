"""Fixed-sequence testing: plans in an order fixed beforehand, each tested at the full level until one is not rejected.

The hypotheses "the drop of plan i is as large as allowed" are tested in order; the first that cannot be rejected ends
the sequence, and all before it are rejected. The chance of any false rejection is that of a single test, however many
plans there are (Maurer, Hothorn and Lehmacher 1995; as risk control: Learn then Test, arXiv 2110.01052). What makes it
valid is that neither the plans nor their order hang on the samples that test them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence

import numpy as np

from onnx_lowrank.numerics.rounding import rounded
from onnx_lowrank.types import Plan

MILD = (1 / 512, 1 / 64, 1 / 16, 1 / 6)
"""Divergences of the first plans, in units of the one at which the answer is expected (decisions change by the root of
it): from far below, since a first plan that is not certified ends it all."""
AROUND = (1.6, 0.4)
"""Costs between which plans lie close, in units of that at which the answer is expected."""
FAR, FAR_STEP = 256.0, 0.12
"""Plans go on below those, as close as this in cost, up to so many times the expected divergence: few decisions change
on the samples that look, so where the answer lies is not sure, and a plan further on takes time only if all before it
are certified."""
STEEP, NEAR = 1.35, (0.5, 3.0)
"""Where a model resists, little cost is much divergence: plans lie as close in that, too, between these shares of the
expected one."""
GAP = 1.2
"""Costs of neighbouring plans that differ by more leave a gap, where bits are chosen: there bytes fall by halves."""
THIN = 1.25
"""Plans of less divergence than the expected one follow each other at this factor at least."""
ROUNDING, NOISE = 1e-9, 1e-7
"""Divergences below this share of the largest are equal, predicted and measured: what they differ by is rounding."""


def fixed_sequence(plans: Sequence[Plan]) -> Generator[Plan, bool, None]:
    """Yield the plans in order while each is certified: send back whether the last one was."""
    for plan in plans:
        if not (yield plan):
            return


def candidates(divergences: Sequence[float], costs: Sequence[float], expected: int, close: float) -> list[int]:
    """Return which plans of a curve to look at, mildest first: MILD ones, AROUND the `expected` one, the smallest.

    `divergences`: (plans,) as predicted, rising but for noise, which is smoothed out; `costs`: what they cost, falling.
    close: by which share of the cost neighbours differ where the answer may well lie; below that they go on in steps.
    """
    rising = np.maximum.accumulate(np.asarray(divergences, np.float64))
    aims = rising[expected] * np.array(MILD)
    picks = {max(int(np.searchsorted(rising, aim, side="right")) - 1, 0) for aim in aims}
    picks |= {expected, len(rising) - 1}
    last = AROUND[0] * costs[expected]
    for index, cost in enumerate(costs):
        if AROUND[1] * costs[expected] <= cost <= last:
            picks.add(index)
            last = (1 - close) * cost
        elif cost <= min(last, AROUND[1] * costs[expected]) and rising[index] <= FAR * rising[expected]:
            picks.add(index)
            last = (1 - FAR_STEP) * cost
    low, high = (share * rising[expected] for share in NEAR)
    for index, divergence in enumerate(rising):
        if 0 < low <= divergence <= high:
            picks.add(index)
            low = STEEP * divergence
    return sorted(picks)


def undominated(divergences: Sequence[float], expected: float) -> list[int]:
    """Return which plans (mildest first) to test: none of which a smaller one diverges less, few that are very mild.

    `divergences`: (plans,) as measured on samples that nothing was fitted on.
    """
    values = rounded(np.asarray(divergences, np.float64))
    values = np.where(values < NOISE * values.max(), 0.0, values)
    least, indices = math.inf, []
    for index in reversed(range(len(values))):
        if values[index] < least:
            least = float(values[index])
            indices.append(index)
    indices.reverse()
    thinned = indices[:1]
    for index in indices[1:]:
        if values[index] >= expected or values[index] >= THIN * values[thinned[-1]]:
            thinned.append(index)
    return thinned


def without_gaps(
    chosen: Sequence[int], divergences: Sequence[float], costs: Sequence[float], expected: float
) -> list[int]:
    """Return the chosen plans (mildest first), and others where neighbours' costs differ by more than GAP.

    Those were left out as a smaller plan diverges less on the samples that look; by how much is not sure, and if the
    smaller one is not certified the next milder one is what is left. In every step of GAP the one of least divergence.
    """
    found = set(chosen)
    for milder, smaller in itertools.pairwise(chosen):
        last = costs[smaller]
        while costs[milder] > GAP**2 * last:
            inside = [i for i in range(milder + 1, smaller) if last < costs[i] <= GAP * last]
            best = min(inside, key=lambda i: divergences[i], default=smaller)
            if divergences[best] <= NEAR[1] * expected:
                found.add(best)
            last *= GAP
    return sorted(found)


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
