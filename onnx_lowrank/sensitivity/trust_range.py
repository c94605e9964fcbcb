"""The trust range: how far the quadratic prediction holds, measured by really substituting weights.

At every site the options are measured that plans of several sizes would take. Where measurement and prediction agree
the prediction stands; beyond, the option is offered with the measured value where that is larger (arXiv 2412.06867: the
expansion holds only while δ is small; docs/method.md, section 3.5). A measurement never makes an option cheaper:
options are chosen among many, and what looks cheap by chance is chosen first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.options import Options
from onnx_lowrank.sensitivity.substitution import SMALLEST, Divergence, Substitutions, stored_weight
from onnx_lowrank.types import Curve, Feed, Option, Probe
from onnx_lowrank.weights.inventory import Inventory

AGREE = 2.0
"""Prediction and measurement agree within this factor."""
ROUNDING = 1e-6
"""Losses below this drown in the float32 rounding of the model itself."""


def measure_trust_range(
    model: onnx.ModelProto,
    inventory: Inventory,
    curves: Sequence[Curve],
    joint: JointScores,
    picks: Mapping[str, Sequence[Option]],
    feeds: Sequence[Feed],
    divergence: Divergence,
    options: Options,
    *,
    batch: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Curve, ...]:
    """Return the curves with their range and, beyond it, measured losses. `feeds` are samples of the first fold.

    `picks`: site id -> options to measure. What is substituted was fitted without the first fold, like the prediction.
    """
    sites = {site.id: site for site in inventory.sites}
    asked = [curve for curve in curves if picks.get(curve.site)]
    if not asked or not feeds:
        return tuple(curves)
    measured = [sites[curve.site] for curve in asked]
    substitutions = Substitutions.of(model, inventory, measured, feeds, divergence, options.runtime, batch=batch)
    probes: dict[str, list[Probe]] = {}
    for curve in asked:
        site = sites[curve.site]
        for option in picks[curve.site]:
            scores = joint.scored[curve.site, option.scheme]
            column = scores.tails[: scores.first or None, scores.ranks.index(option.ranks)]
            predicted = 0.5 * float(np.mean(column**2))
            loss = substitutions.loss(site, stored_weight(inventory, site, scores.held, option))
            progress(1)
            probes.setdefault(curve.site, []).append(Probe(option.error, loss, predicted, option.form))
    return tuple(within_trust_range(curve, probes.get(curve.site, ())) for curve in curves)


def within_trust_range(curve: Curve, probes: Sequence[Probe]) -> Curve:
    """Return the curve with its range; beyond it losses are the prediction times the measured ratio.

    The ratio is interpolated in the logarithm of the error and constant beyond the last probe; losses never fall as
    the error grows.
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
            break
        reach = probe.error
    else:
        return replace(curve, probes=tuple(known), trust_range=max(known[-1].error, farthest))
    errors = np.log([p.error for p in known])
    ratios = np.log([max(p.loss, ROUNDING) / max(p.predicted or 0.0, ROUNDING) for p in known])
    ratios = np.maximum(ratios, 0.0)  # chosen among many, what looks cheaper than predicted is luck
    if reach > 0:  # inside the range the prediction stands
        ratios[errors <= np.log(reach)] = 0.0

    def corrected(option: Option) -> Option:
        if option.dense or option.error <= reach:
            return option
        ratio = float(np.exp(np.interp(np.log(max(option.error, 1e-300)), errors, ratios)))
        return replace(option, loss=option.loss * ratio, deviation=option.deviation * ratio)

    options = [corrected(option) for option in curve.options]
    return replace(curve, options=_rising(options), probes=tuple(known), trust_range=reach)


def agrees(probe: Probe) -> bool:
    """Return whether a probe's measurement is within a factor of AGREE of its prediction, or both are rounding."""
    high, low = max(probe.loss, probe.predicted or 0.0), min(probe.loss, probe.predicted or 0.0)
    return high <= AGREE * low + ROUNDING


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
