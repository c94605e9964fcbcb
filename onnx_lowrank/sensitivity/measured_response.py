"""Measured response: a few options of a site are measured, and the losses of all of them follow from those.

The divergence (nats of KL, or squared error over the output's variance) is what makes sites comparable: the same
relative error can be free at one site and ruin the model at another. Between the probes the loss follows a power law of
the error, outside them it is proportional to it (docs/method.md, 3.6: B = identity, scaled by the measured response).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.options import Options
from onnx_lowrank.sensitivity.decompose import ROUNDING, Decomposed
from onnx_lowrank.sensitivity.substitution import SMALLEST, Divergence, Substitutions, stored_weight
from onnx_lowrank.types import Array, Curve, Feed, Option, Probe
from onnx_lowrank.weights.inventory import Inventory

PROBES = 3
LARGEST = 0.5
"""No probe above this relative error: there the output is noise and says nothing of smaller errors."""


def probe_curves(
    model: onnx.ModelProto,
    inventory: Inventory,
    decomposed: Decomposed,
    feeds: Sequence[Feed],
    divergence: Divergence,
    options: Options,
    *,
    batch: int = 1,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[Curve, ...]:
    """Return the curves with predicted losses, per sample of `feeds`, measured at up to PROBES options a site."""
    sites = {site.id: site for site in inventory.sites}
    measured = [sites[curve.site] for curve in decomposed.curves]
    substitutions = Substitutions.of(model, inventory, measured, feeds, divergence, options.runtime, batch=batch)
    curves = []
    for curve in decomposed.curves:
        site = sites[curve.site]
        probes = []
        for option in substituted_options(curve):
            weight = stored_weight(inventory, site, decomposed.factors[site.id, option.scheme], option)
            probes.append(Probe(option.error, substitutions.loss(site, weight)))
            progress(1)
        curves.append(predict(curve, probes))
    return tuple(curves)


def substituted_options(curve: Curve) -> list[Option]:
    """Return the options to measure: errors spread evenly on a log scale over what is worth measuring.

    Those of the weight by itself: what weights of a shared input share is read off the same errors.
    """
    alone = [option for option in curve.options[1:] if not option.shared_input]
    usable = sorted((o for o in alone if SMALLEST < o.error <= LARGEST), key=lambda o: o.error)
    if not usable:
        nearest = sorted(alone, key=lambda o: abs(float(np.log(max(o.error, SMALLEST) / LARGEST))))
        return [o for o in nearest[:1] if o.error > 0]
    logs = np.log([o.error for o in usable])
    picks = [int(np.argmin(np.abs(logs - target))) for target in np.linspace(logs[0], logs[-1], PROBES)]
    return [usable[i] for i in dict.fromkeys(picks)]


def predict(curve: Curve, probes: Sequence[Probe]) -> Curve:
    """Return the curve with the loss of every option read off its probes."""
    usable = sorted((p for p in probes if p.error > 0), key=lambda p: p.error)
    if not usable:
        return replace(curve, probes=tuple(probes))
    errors = np.log([p.error for p in usable])
    losses = np.log(np.maximum.accumulate([max(p.loss, 1e-15) for p in usable]))
    return replace(
        curve,
        options=tuple(o if o.dense else replace(o, loss=_loss(o.error, errors, losses)) for o in curve.options),
        probes=tuple(probes),
    )


def _loss(error: float, errors: Array, losses: Array) -> float:
    """Interpolate in log-log; proportional to the error outside, so never flat and never falling.

    Nothing is lost where the error is the rounding of the stored numbers.
    """
    if error <= ROUNDING:
        return 0.0
    at = float(np.log(error))
    if at <= errors[0]:
        return float(np.exp(losses[0] + at - errors[0]))
    if at >= errors[-1]:
        return float(np.exp(losses[-1] + at - errors[-1]))
    return float(np.exp(np.interp(at, errors, losses)))
