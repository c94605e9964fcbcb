"""What choosing does to a prediction: of many options those are taken that look cheap, and some of them by chance.

A plan that was chosen on half of the scored samples is predicted on the other half: nothing is run for it. That says by
how much the loss of a plan is underrated, and whether another measure than the predicted loss gives better plans
(docs/method.md, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.numerics.rounding import first_least
from onnx_lowrank.plan import Problem
from onnx_lowrank.types import Array, Curve

BLENDS = (0.0, 0.25, 0.5)
"""Measures that compete, see `Problem.blend`."""
SIZES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""Shares of the factorable parameters that plans keep."""
BETTER = 0.1
"""Another measure than the predicted loss has to be better by this, in the mean logarithm over the sizes."""
LEAST = 1e-9
"""Losses below this count as this much."""


@dataclass(frozen=True, slots=True)
class Selection:
    """blend: the measure to plan with. optimism: how many times its prediction a chosen plan is expected to lose."""

    blend: float = 0.0
    optimism: float = 1.0


UNSELECTED = Selection()
"""The predicted loss as it is."""


def cross_validated(curves: Sequence[Curve], tails: Mapping[str, Array], weights: Mapping[str, str]) -> Selection:
    """Return how to choose, and what choosing does; nothing is changed where there are fewer than two samples.

    tails: site id -> (samples, options); a site without any has the same losses on both halves.
    """
    count = min((len(columns) for columns in tails.values()), default=0)
    if count < 2:
        return Selection()
    halves = [_losses(curves, tails, rows) for rows in (slice(0, count // 2), slice(count // 2, count))]
    unseen, ratios = [], []
    for blend in BLENDS:
        pairs = [pair for seen, other in (halves, halves[::-1]) for pair in _of_sizes(seen, other, weights, blend)]
        if not pairs:
            return Selection()
        chosen, elsewhere = np.log(np.maximum(np.array(pairs), LEAST)).T
        unseen.append(float(elsewhere.mean()))
        ratios.append(float(np.exp((elsewhere - chosen).mean())))
    at = first_least(unseen, BETTER)
    return Selection(BLENDS[at], max((1 + ratios[at]) / 2, 1.0))  # all samples are twice as many as a half


def _losses(curves: Sequence[Curve], tails: Mapping[str, Array], rows: slice) -> tuple[Curve, ...]:
    """Return the curves with losses of these samples alone; what is 0 over all of them stays 0."""
    halved = []
    for curve in curves:
        if curve.site in tails:
            values = 0.5 * np.mean(np.asarray(tails[curve.site][rows], np.float64) ** 2, axis=0)
            options = (
                replace(option, loss=float(value) if option.loss > 0 else option.loss)
                for option, value in zip(curve.options, values, strict=True)
            )
            curve = replace(curve, options=tuple(options))
        halved.append(curve)
    return tuple(halved)


def _of_sizes(
    seen: tuple[Curve, ...], other: tuple[Curve, ...], weights: Mapping[str, str], blend: float
) -> list[tuple[float, float]]:
    """Return what plans lose on the half that they were chosen on, and on the other one."""
    problem = Problem(seen, weights, "parameters", blend=blend)
    elsewhere = {(curve.site, option.form): option.loss for curve in other for option in curve.options}
    plans = (problem.quick(share * problem.dense, "") for share in SIZES)
    return [
        (plan.loss, sum(elsewhere[choice.site, choice.option.form] for choice in plan.choices))
        for plan in plans
        if plan is not None and plan.factored
    ]
