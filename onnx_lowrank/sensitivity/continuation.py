"""Continuation: shrink, collect again on the shrunken model, shrink further (docs/method.md, section 3.9).

The quadratic model of the loss holds near the weights that it was taken at. After a step the weights are those of the
plan (as dense products Ŵ), the targets are still the original's, and every site goes on from the rank that it has, to
cheaper options of any scheme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_lowrank.collection.key import digest_of
from onnx_lowrank.collection.reference_targets import original_targets
from onnx_lowrank.graph.editing import with_weights
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.sensitivity.calibrated import Calibrated, OpenModel, SensitivityState
from onnx_lowrank.sensitivity.measure import calibrate_on, probe
from onnx_lowrank.sensitivity.substitution import stored_weight
from onnx_lowrank.types import Array, Choice, Curve, Feed, Plan
from onnx_lowrank.weights.inventory import Inventory


@dataclass(frozen=True, slots=True, eq=False)
class ShrunkenModel:
    """A model whose weights are the dense products of a plan; sha256: of the model before, and of those weights."""

    model: onnx.ModelProto
    runner: Runner
    sha256: str


def shrunken(inventory: Inventory, plan: Plan, calibrated: Calibrated) -> dict[str, Array]:
    """Return site id -> the dense product that the plan's factors stand for, as it arrives at the operators."""
    sites = {site.id: site for site in inventory.sites}
    return {
        choice.site: stored_weight(
            inventory,
            sites[choice.site],
            calibrated.decomposed.factors[choice.site, choice.option.scheme],
            choice.option,
        )
        for choice in plan.factored
    }


def go_on(
    opened: OpenModel,
    inventory: Inventory,
    state: SensitivityState,
    plan: Plan,
    options: Options,
    progress: Progress,
    held_back: Sequence[Feed] = (),
) -> SensitivityState:
    """Return where the work stands after a plan's step: factors and curves of the shrunken weights."""
    weights = shrunken(inventory, plan, state.calibrated)
    entries = {
        name: w for site, weight in weights.items() for name, w in inventory.sources[site].replaced(weight).items()
    }
    model = with_weights(opened.model, entries)
    there = ShrunkenModel(
        model, Runner(model, runtime=options.runtime), digest_of(sorted(entries.items()), opened.sha256)
    )
    moved = inventory.moved(weights)
    objective = replace(
        state.calibrated.objective,
        targets=original_targets(opened.model, state.calibrated.objective, state.calibrated.samples.feeds, options),
    )
    done = calibrate_on(there, state.calibrated.samples, moved, options, progress, objective)
    after = probe(there, moved, done, options, progress, held_back)
    choices = {choice.site: choice for choice in plan.factored}
    limited = [_limited(curve, choices.get(curve.site)) for curve in after.curves]
    picked = {curve.site: picks for curve, (_, picks) in zip(after.curves, limited, strict=True)}
    tails = {site: array[:, picked[site]] for site, array in done.tails.items()}  # none of a site without a gradient
    slopes = {site: array[:, picked[site]] for site, array in done.slopes.items()}
    kept = replace(done, tails=tails, slopes=slopes)
    return replace(after, calibrated=kept, curves=tuple(curve for curve, _ in limited))


def _limited(curve: Curve, choice: Choice | None) -> tuple[Curve, list[int]]:
    """Return a curve without what would undo the step, and its options' places: its own rank, and what is cheaper.

    Its own rank costs nothing more; where another scheme has beaten it out of the curve it comes back, with the dense
    option's place (both change nothing). The cheapest option stays, so every size stays in reach. The dense option
    stays first, as the measure of cost, and is dominated.
    """
    if choice is None:
        return curve, list(range(len(curve.options)))
    own = choice.option
    at = next((i for i, o in enumerate(curve.options) if (o.scheme, o.ranks) == (own.scheme, own.ranks)), 0)
    kept = replace(curve.options[at] if at else replace(own, error=0.0, slope=0.0), loss=0.0)
    picks, options = [0, at], [curve.dense, kept]
    for index, option in enumerate(curve.options[1:], 1):
        if index != at and (option.cost.parameters < own.cost.parameters or option.cost.macs < own.cost.macs):
            picks.append(index)
            options.append(option)
    return replace(curve, options=tuple(options)), picks
