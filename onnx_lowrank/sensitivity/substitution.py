"""Measured sensitivity: substitute a site's weight at a few ranks, run the model, and see how far its output moves.

The divergence (nats of KL, or squared error over the output's variance) is what makes sites comparable: the same
relative error can be free at one site and ruin the model at another. Between the probes the loss follows a power law of
the error, outside them it is proportional to it (docs/method.md, 3.6: B = identity, scaled by the measured response).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnx_lowrank.collection import overridable
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.batching import batches, join
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import Factors
from onnx_lowrank.schemes.product import product
from onnx_lowrank.sensitivity.decompose import ROUNDING, Decomposed
from onnx_lowrank.types import Array, Curve, Feed, Option, Probe, Site, Stage
from onnx_lowrank.weights.inventory import Inventory
from onnx_lowrank.weights.transforms import as_type

PROBES = 3
LARGEST = 0.5
"""No probe above this relative error: there the output is noise and says nothing of smaller errors."""
SMALLEST = 1e-7
"""Errors below this share drown in float32 rounding."""

LARGEST_LOSS = 1e6
"""In place of infinity, with which no solver can reckon."""

Divergence = Callable[[Mapping[str, Array], Mapping[str, Array], int], float]
"""(outputs of the original, of the candidate, samples in this feed) -> their summed divergence."""


def probe_curves(
    model: onnx.ModelProto,
    inventory: Inventory,
    decomposed: Decomposed,
    feeds: Sequence[Feed],
    divergence: Divergence,
    options: Options,
    *,
    batch: int = 1,
    progress: Callable[[int], None] | None = None,
) -> tuple[Curve, ...]:
    """Return the curves with predicted losses, per sample of `feeds`, measured at up to PROBES options a site."""
    sites = {site.id: site for site in inventory.sites}
    wanted = [sites[curve.site] for curve in decomposed.curves]
    runner = Runner(substitutable(model, inventory, wanted), runtime=options.runtime)
    runs = list(batches(feeds, batch))
    joined = [join(run) for run in runs]
    reference = [runner.run(feed) for feed in joined]
    curves = []
    for curve in decomposed.curves:
        site = sites[curve.site]
        probes = []
        for option in substituted_options(curve):
            weight = stored_weight(inventory, site, decomposed.factors[site.id, option.scheme], option)
            given = substitution(inventory, site, weight)
            total = sum(
                divergence(expected, runner.run({**feed, **given}), len(run))
                for run, feed, expected in zip(runs, joined, reference, strict=True)
            )
            probes.append(Probe(option.error, min(max(float(total), 0.0) / len(feeds), LARGEST_LOSS)))
            if progress:
                progress(1)
        curves.append(predict(curve, probes))
    return tuple(curves)


def substituted_options(curve: Curve) -> list[Option]:
    """Return the options to measure: errors spread evenly on a log scale over what is worth measuring.

    Those of the weight by itself: what siblings share is read off the same errors.
    """
    alone = [option for option in curve.options[1:] if not option.shared_input]
    usable = sorted((o for o in alone if SMALLEST < o.error <= LARGEST), key=lambda o: o.error)
    if not usable:
        nearest = sorted(alone, key=lambda o: abs(float(np.log(max(o.error, SMALLEST) / LARGEST))))
        return [o for o in nearest[:1] if o.error > 0]
    logs = np.log([o.error for o in usable])
    picks = [int(np.argmin(np.abs(logs - target))) for target in np.linspace(logs[0], logs[-1], PROBES)]
    return [usable[i] for i in dict.fromkeys(picks)]


def stored_weight(inventory: Inventory, site: Site, factors: Factors, option: Option) -> Array:
    """Return the dense weight that the option stands for, as it arrives at the operators.

    Where factors are rounded to be stored it is the product of the rounded ones: the loss of rounding is measured, too.
    """
    call, storage = inventory.calls[site.id][0], inventory.sources[site.id].storage
    ranks = option.ranks
    dense = product(storage.seen(factors.chain(ranks))) if storage.narrow else factors.dense(ranks)
    stage = Stage(dense, tuple(range(dense.ndim - 2)), site.groups)
    return np.ascontiguousarray(as_type(call.stored(stage), storage.arrives))


def substitution(inventory: Inventory, site: Site, weight: Array) -> dict[str, Array]:
    """Return what to feed an `overridable` model so that a weight, as it arrives, is another one."""
    return inventory.sources[site.id].replaced(weight)


def substitutable(model: onnx.ModelProto, inventory: Inventory, sites: Sequence[Site]) -> onnx.ModelProto:
    """Return a copy of the model in which these sites' weights are optional inputs."""
    made: dict[str, Array] = {}
    for site in sites:
        source = inventory.sources[site.id]
        if source.transforms:
            arrives = source.replaced(source.value(inventory.weights[site.weight]))
            made |= {entry: array for entry, array in arrives.items() if entry != site.weight}
    return overridable(model, [name for site in sites for name in inventory.sources[site.id].entries], made)


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
