"""The trust range: how far the quadratic prediction of a weight holds, by what substituting it was measured to lose.

Where measurement and prediction agree the prediction stands; beyond, losses are the prediction times what was measured
over it (arXiv 2412.06867: the expansion holds only while δ is small; docs/method.md, section 3.5). A measurement never
makes an option cheaper: options are chosen among many, and what looks cheap by chance is chosen first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.sensitivity.substitution import SMALLEST
from onnx_lowrank.types import Curve, Option, Probe

AGREE = 2.0
"""Prediction and measurement agree within this factor."""
ROUNDING = 1e-6
"""Losses below this drown in the float32 rounding of the model itself."""


def within_trust_range(curve: Curve, probes: Sequence[Probe], vouched: float = 0.0) -> Curve:
    """Return the curve with its range; beyond it losses are the prediction times the measured ratio.

    vouched: an error up to which something else says that the prediction holds; the first probe that does not agree
    ends it. The ratio is interpolated in the logarithm of the error and constant beyond the last probe. Before the
    first one what it is above 1 is proportional to the error: what is left out of the expansion is of a higher order.
    Losses never fall as the error grows.
    """
    predicted = sorted((p for p in probes if p.predicted is not None), key=lambda p: p.error)
    known = [p for p in predicted if p.error > SMALLEST]  # below it the error itself is rounding
    farthest = max(o.error for o in curve.options)
    if not known:
        exact = bool(predicted) and all(map(agrees, predicted))
        return replace(curve, probes=tuple(probes), trust_range=farthest if exact else None)
    reach = 0.0
    for probe in known:
        if not agrees(probe):
            reach = max(reach, vouched) if vouched < probe.error else reach
            break
        reach = probe.error
    else:
        return replace(curve, probes=tuple(known), trust_range=max(known[-1].error, farthest))
    ratio = _ratio(known, reach)

    def corrected(option: Option) -> Option:
        if option.dense or option.error <= reach:
            return option
        times = ratio(option.error)
        least = ROUNDING if option.error >= known[0].error and times > 1 else 0.0  # what is 0 stays 0 when multiplied
        return replace(option, loss=max(option.loss, least) * times, deviation=option.deviation * times)

    options = [corrected(option) for option in curve.options]
    return replace(curve, options=_rising(options), probes=tuple(known), trust_range=reach)


def _ratio(known: Sequence[Probe], reach: float) -> Callable[[float], float]:
    """Return measured over predicted loss at an error beyond the range; of probes at rising errors."""
    beyond = [probe for probe in known if probe.error > reach]
    errors = np.log([probe.error for probe in beyond])
    ratios = np.log([_excess(probe) for probe in beyond])
    if reach > 0:
        errors, ratios = np.concatenate([[np.log(reach)], errors]), np.concatenate([[0.0], ratios])

    def at(error: float) -> float:
        if error < beyond[0].error and reach == 0:
            return 1.0 + (float(np.exp(ratios[0])) - 1.0) * error / beyond[0].error
        return float(np.exp(np.interp(np.log(error), errors, ratios)))

    return at


def _excess(probe: Probe) -> float:
    """Return how many times its prediction a probe loses, at least 1: a standard error less than measured."""
    if agrees(probe):
        return 1.0
    return max((probe.loss - probe.deviation) / max(probe.predicted or 0.0, ROUNDING), 1.0)


def agrees(probe: Probe) -> bool:
    """Return whether a probe's measurement is within a factor of AGREE of its prediction, or both are rounding."""
    return close(probe.loss, probe.predicted or 0.0)


def close(loss: float, predicted: float) -> bool:
    """Return whether two losses are within a factor of AGREE, or both are rounding."""
    return max(loss, predicted) <= AGREE * min(loss, predicted) + ROUNDING


def _rising(options: Sequence[Option]) -> tuple[Option, ...]:
    """Return the options with losses that never fall as the error grows; those of shared inputs by themselves."""
    order = sorted(range(len(options)), key=lambda i: options[i].error)
    most = {True: 0.0, False: 0.0}
    fixed = list(options)
    for index in order:
        shared = bool(options[index].shared_input)
        most[shared] = max(most[shared], options[index].loss)
        fixed[index] = replace(options[index], loss=most[shared])
    return tuple(fixed)
