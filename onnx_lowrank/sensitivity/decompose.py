"""Every site decomposed once by every scheme that fits: options with cost and error, and the factors to cut from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_lowrank.collection.input_moments import SiteMoments
from onnx_lowrank.collection.positions import ObservedPositions
from onnx_lowrank.cost import chain_cost, unchanged_cost
from onnx_lowrank.numerics.rounding import not_above
from onnx_lowrank.schemes import (
    Factors,
    Scheme,
    factor_shared,
    fitting,
    form_of,
    largest,
    layout_of,
    preference,
    shared_form,
    shared_layout,
    shared_ranks,
)
from onnx_lowrank.types import (
    SHARED,
    UNCHANGED,
    Cost,
    Curve,
    Moments,
    Option,
    Positions,
    Ranks,
    SharedInput,
    Site,
    Skip,
    Why,
)
from onnx_lowrank.weights.inventory import Inventory

DEAD = 0.0
ROUNDING = 1e-12
"""A relative squared error below this is the rounding of float32: of a weight of exact rank up to 2e-14 are left."""


@dataclass(frozen=True, slots=True)
class Decomposed:
    """curves: one a site, losses not yet predicted. factors: (site id, scheme) -> its factors.

    dead: sites whose input is zero, or not finite, on all samples; nothing can be said of them, so they stay dense.
    """

    curves: tuple[Curve, ...]
    factors: Mapping[tuple[str, str], Factors]
    dead: tuple[Skip, ...] = ()


def decompose(
    inventory: Inventory,
    observed: ObservedPositions,
    collected: Iterable[SiteMoments],
    *,
    whiten: bool,
    multiple: int,
) -> Decomposed:
    """Return options and factors of every site, consuming what was collected one site at a time.

    `whiten` fits the basis in the metric of the inputs, else that of the plain weight; errors are scored on the
    samples kept apart for that either way.
    """
    curves: list[Curve] = []
    factors: dict[tuple[str, str], Factors] = {}
    dead: list[Skip] = []
    shared_inputs = shared_input_of(inventory)
    for site, fit, score in collected:
        if isinstance(usable := _usable(site, fit, score), Skip):
            dead.append(usable)
            continue
        metric, score = (usable[0] if whiten else None), usable[1]
        factors |= _fit_and_score(inventory, site, metric, score, multiple)
        shared = shared_inputs.get(site.id)
        if shared is not None and (site.id, SHARED) not in factors:  # the input of one is that of all
            factors |= _together(inventory, shared, metric, score, multiple)
        curves.append(_curve(site, observed.positions[site.id], factors, multiple, shared))
    return Decomposed(tuple(curves), factors, tuple(dead))


def _usable(site: Site, fit: Moments | None, score: Moments | None) -> tuple[Moments, Moments] | Skip:
    """Return both parts of what was collected, or why nothing can be said of the site."""
    if fit is None or score is None:
        said = "its input, or its output, is not finite on any calibration sample"
        return Skip(site.weight, site.node, site.op, site.shape, Why.OVERFLOW, said)
    if fit.energy <= DEAD or score.energy <= DEAD:
        return Skip(site.weight, site.node, site.op, site.shape, Why.UNREACHED, "its input is always zero")
    return fit, score


def _fit_and_score(
    inventory: Inventory, site: Site, metric: Moments | None, score: Moments | None, multiple: int
) -> dict[tuple[str, str], Factors]:
    """Return the factors of every scheme that fits: fitted in a metric, their errors measured on other samples."""
    weight = inventory.weight(site)
    return {
        (site.id, scheme.name): scheme.factor(weight, metric, score, largest(ranks), site.groups)
        for scheme, ranks in fitting(site, multiple)
    }


def decompose_plain(inventory: Inventory, multiple: int) -> Decomposed:
    """Return options and factors from the weights alone: no data, no positions, so no MACs."""
    curves: list[Curve] = []
    factors: dict[tuple[str, str], Factors] = {}
    shared_inputs = shared_input_of(inventory)
    for shared in inventory.shared_inputs:
        factors |= _together(inventory, shared, None, None, multiple)
    for site in inventory.sites:
        factors |= _fit_and_score(inventory, site, None, None, multiple)
        nowhere = Positions(0.0, *(((0.0,) * (len(site.shape) - 2),) * 2))
        curves.append(_curve(site, (nowhere,), factors, multiple, shared_inputs.get(site.id)))
    return Decomposed(tuple(curves), factors)


def cost_curves(inventory: Inventory, multiple: int) -> tuple[Curve, ...]:
    """Return what every option would cost in parameters and bytes, with nothing decomposed: is a goal reachable?"""
    shared_inputs = shared_input_of(inventory)

    def options(site: Site) -> Iterator[Option]:
        yield Option(UNCHANGED, unchanged_cost(site, ()))
        for scheme, offered in fitting(site, multiple):
            for ranks in offered:
                form = form_of(scheme.name, ranks, site)
                yield Option(form, chain_cost(site, layout_of(form, site), ()))
        if site.id in shared_inputs:
            yield from shared_options(site, shared_inputs[site.id], (), multiple)

    return tuple(Curve(site.id, tuple(options(site))) for site in inventory.sites)


def shared_input_of(inventory: Inventory) -> dict[str, SharedInput]:
    """Return site id -> the shared input that its weight reads, where there is one."""
    return {member: shared for shared in inventory.shared_inputs for member in shared.members}


def shared_options(
    site: Site,
    shared: SharedInput,
    positions: Sequence[Positions],
    multiple: int,
    factors: Mapping[tuple[str, str], Factors] | None = None,
) -> list[Option]:
    """Return what a site takes together with the other weights, all ranks: all of them together tell their worth."""
    made = None if factors is None else factors[site.id, SHARED]
    return [
        Option(
            shared_form(shared, ranks),
            chain_cost(site, shared_layout(shared, site.id, ranks), positions),
            made.error(ranks) if made is not None else 0.0,
            shared_input=shared.members,
        )
        for ranks in shared_ranks(shared, multiple)
    ]


def _together(
    inventory: Inventory, shared: SharedInput, fit: Moments | None, score: Moments | None, multiple: int
) -> dict[tuple[str, str], Factors]:
    """Return the factors of all weights of a shared input."""
    sites = {site.id: site for site in inventory.sites}
    weights = [inventory.stored(sites[member]) for member in shared.members]
    pairs = factor_shared(weights, fit, score, largest(shared_ranks(shared, multiple)))
    return {(member, SHARED): pair for member, pair in zip(shared.members, pairs, strict=True)}


def _curve(
    site: Site,
    positions: Sequence[Positions],
    factors: Mapping[tuple[str, str], Factors],
    multiple: int,
    shared: SharedInput | None = None,
) -> Curve:
    dense = Option(UNCHANGED, unchanged_cost(site, positions))
    options = [
        option
        for scheme, ranks in fitting(site, multiple)
        for option in _options(site, scheme, ranks, positions, factors)
    ]
    together = [] if shared is None else shared_options(site, shared, positions, multiple, factors)
    return Curve(site.id, (dense, *undominated(options), *together))


def _options(
    site: Site,
    scheme: Scheme,
    offered: Sequence[Ranks],
    positions: Sequence[Positions],
    factors: Mapping[tuple[str, str], Factors],
) -> list[Option]:
    return [
        Option(
            form,
            chain_cost(site, layout_of(form, site), positions),
            factors[site.id, scheme.name].error(form.ranks),
        )
        for form in (form_of(scheme.name, ranks, site) for ranks in offered)
    ]


def above_rounding(option: Option) -> float:
    """Return an option's error, 0 where it is the rounding of the stored numbers."""
    return option.error if option.error > ROUNDING else 0.0


def undominated(options: Sequence[Option], worth: Callable[[Option], float] = above_rounding) -> list[Option]:
    """Return the options that no other beats in parameters, MACs and `worth` at once, by falling parameters.

    What is worth the same but for rounding loses to what costs less, then to what comes first by `preference`.
    """
    kept: list[Option] = []

    def beats(one: Option, other: Option) -> bool:
        return _at_most(one.cost, other.cost) and not_above(worth(one), worth(other))

    for option in sorted(options, key=preference):  # so what costs no more has been looked at
        if not any(beats(other, option) for other in kept):
            kept = [other for other in kept if not beats(option, other)]
            kept.append(option)
    return sorted(kept, key=lambda o: (-o.cost.parameters, o.scheme, o.ranks))


def _at_most(one: Cost, other: Cost) -> bool:
    return one.parameters <= other.parameters and one.macs <= other.macs
