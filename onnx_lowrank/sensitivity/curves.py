"""From what the joint collection found to curves: every option with its cost, its predicted rise and its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.collection.scores import JointScores, Scores
from onnx_lowrank.cost import chain_cost, unchanged_cost
from onnx_lowrank.schemes import Factors, form_of, layout_of, shared_form, shared_layout
from onnx_lowrank.sensitivity.decompose import Decomposed, shared_input_of, undominated
from onnx_lowrank.sensitivity.substitution import SMALLEST
from onnx_lowrank.types import (
    SHARED,
    UNCHANGED,
    Array,
    Cost,
    Curve,
    Form,
    Option,
    Positions,
    SharedInput,
    Site,
    Skip,
    Why,
)
from onnx_lowrank.weights.inventory import Inventory

ROUNDING = 1e-9
"""A rise below this share of the largest one of a weight is the rounding of float32 (measured: up to 3e-10 of it)."""


@dataclass(frozen=True, slots=True, eq=False)
class JointCurves:
    """tails, slopes: site id -> (samples, options of the curve) −⟨Γ_s, δ⟩, with sampled and with real targets."""

    decomposed: Decomposed
    tails: Mapping[str, Array]
    slopes: Mapping[str, Array]


def joint_curves(inventory: Inventory, observed: ObservedPositions, joint: JointScores) -> JointCurves:
    """Return the curves of all sites that a gradient reaches."""
    curves: list[Curve] = []
    tails: dict[str, Array] = {}
    slopes: dict[str, Array] = {}
    factors: dict[tuple[str, str], Factors] = {}
    shared_inputs = shared_input_of(inventory)
    for site in inventory.sites:
        by_scheme = {name: scores for (owner, name), scores in joint.scored.items() if owner == site.id}
        if not by_scheme:
            continue
        positions = observed.positions[site.id]
        options = _options(site, positions, by_scheme, shared_inputs.get(site.id))
        curves.append(Curve(site.id, (Option(UNCHANGED, unchanged_cost(site, positions)), *options)))
        tails[site.id] = _columns(options, {name: s.tails for name, s in by_scheme.items()}, by_scheme)
        known = {name: s.slopes for name, s in by_scheme.items() if s.slopes is not None}
        if len(known) == len(by_scheme):
            slopes[site.id] = _columns(options, known, by_scheme)
        factors |= {(site.id, name): scores.factors for name, scores in by_scheme.items()}
    return JointCurves(Decomposed(tuple(curves), factors, _skips(inventory, joint)), tails, slopes)


def _skips(inventory: Inventory, joint: JointScores) -> tuple[Skip, ...]:
    """Return the sites that stay as they are, with the reason."""
    dead = [
        Skip(s.weight, s.node, s.op, s.shape, Why.UNREACHED, "on these samples it has no effect on the output")
        for s in joint.dead
    ]
    dead += [
        Skip(s.weight, s.node, s.op, s.shape, Why.OVERFLOW, joint.overflowing[s.id])
        for s in inventory.sites
        if s.id in joint.overflowing
    ]
    return tuple(dead)


def _options(
    site: Site, positions: Sequence[Positions], by_scheme: Mapping[str, Scores], shared: SharedInput | None
) -> list[Option]:
    """Return what is worth offering of all schemes, and all that is shared with other weights."""
    whole = max(float(scores.rise.max()) for scores in by_scheme.values())
    options = [
        _option(
            scores, (form := form_of(name, ranks, site)), i, chain_cost(site, layout_of(form, site), positions), whole
        )
        for name, scores in by_scheme.items()
        for i, ranks in enumerate(scores.ranks)
        if name != SHARED
    ]
    best = undominated(options, lambda option: option.loss)
    if SHARED in by_scheme and shared is not None:
        best += _together(site, shared, by_scheme[SHARED], positions, whole)
    return best


def _option(scored: Scores, form: Form, index: int, cost: Cost, whole: float) -> Option:
    error = scored.factors.error(scored.ranks[index])
    slope = deviation = 0.0
    if scored.slopes is not None:
        column = scored.slopes[:, index]
        slope, deviation = float(column.mean()), float(column.std() / np.sqrt(len(column)))
    return Option(
        form,
        cost,
        error=error,
        loss=_above_rounding(float(scored.rise[index]), whole, error),
        deviation=float(scored.deviation[index]),
        slope=slope,
        slope_deviation=deviation,
    )


def _together(
    site: Site, shared: SharedInput, scored: Scores, positions: Sequence[Positions], whole: float
) -> list[Option]:
    """Return what a site takes together with the other weights, all ranks: all of them together tell their worth."""
    costs = [chain_cost(site, shared_layout(shared, site.id, ranks), positions) for ranks in scored.ranks]
    forms = [shared_form(shared, ranks) for ranks in scored.ranks]
    options = (_option(scored, form, i, cost, whole) for i, (form, cost) in enumerate(zip(forms, costs, strict=True)))
    return [replace(option, shared_input=shared.members) for option in options]


def _above_rounding(rise: float, whole: float, error: float) -> float:
    """Return an option's rise, 0 where it is the rounding of float32, which says nothing of ranks.

    Compared with the `whole`, the largest rise of the site's options: tails are differences of that size, and enter
    squared. Where even the smallest rank is exact all of them are rounding; then the error tells.
    """
    return rise if rise > ROUNDING * whole and error > SMALLEST else 0.0


def _columns(options: Sequence[Option], arrays: Mapping[str, Array], mine: Mapping[str, Scores]) -> Array:
    """Return (samples, options with dense first): a column each, zeros for the dense one."""
    picked = [arrays[o.scheme][:, mine[o.scheme].ranks.index(o.ranks)] for o in options]
    count = len(next(iter(arrays.values())))
    return np.column_stack([np.zeros(count), *picked])


def merged(inventory: Inventory, first: Decomposed, other: Decomposed) -> Decomposed:
    """Return both together, curves in the order of the sites."""
    curves = {curve.site: curve for curve in (*first.curves, *other.curves)}
    ordered = tuple(curves[site.id] for site in inventory.sites if site.id in curves)
    return Decomposed(ordered, {**first.factors, **other.factors}, (*first.dead, *other.dead))
