"""Every site decomposed once by every scheme that fits: options with cost and error, and the factors to cut from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnx_lowrank.calibration import Observed
from onnx_lowrank.cost import dense_layout, layout_cost
from onnx_lowrank.schemes import SCHEMES, Factors, Scheme, largest
from onnx_lowrank.sites import Found
from onnx_lowrank.types import DENSE, Cost, Curve, Moments, Option, Positions, Site, Skip, Why

DEAD = 0.0


@dataclass(frozen=True, slots=True)
class Decomposed:
    """curves: one a site, losses not yet predicted. factors: (site id, scheme) -> its factors.

    dead: sites whose input is zero on all samples; nothing can be said about them, so they stay dense.
    """

    curves: tuple[Curve, ...]
    factors: Mapping[tuple[str, str], Factors]
    dead: tuple[Skip, ...] = ()


def decompose(
    found: Found,
    observed: Observed,
    moments: Iterable[tuple[Site, Moments, Moments]],
    *,
    whiten: bool,
    multiple: int,
) -> Decomposed:
    """Return options and factors of every site, consuming `moments` one site at a time.

    `whiten` takes the basis in the metric of the inputs, else that of the plain weight; errors are measured on the
    score samples either way.
    """
    curves: list[Curve] = []
    factors: dict[tuple[str, str], Factors] = {}
    dead: list[Skip] = []
    for site, fit, score in moments:
        if fit.A.trace() <= DEAD or score.A.trace() <= DEAD:
            dead.append(Skip(site.weight, site.node, site.op, site.shape, Why.UNREACHED, "its input is always zero"))
            continue
        weight = found.weight(site)
        for scheme in SCHEMES:
            ranks = scheme.ranks(site.shape, multiple, site.groups)
            if ranks:
                factors[site.id, scheme.name] = scheme.factor(
                    weight, fit if whiten else None, score, largest(ranks), site.groups
                )
        curves.append(_curve(site, observed.places[site.id], factors, multiple))
    return Decomposed(tuple(curves), factors, tuple(dead))


def decompose_plain(found: Found, multiple: int) -> Decomposed:
    """Return options and factors from the weights alone: no data, no positions, so no MACs."""
    curves: list[Curve] = []
    factors: dict[tuple[str, str], Factors] = {}
    for site in found.sites:
        weight = found.weight(site)
        for scheme in SCHEMES:
            ranks = scheme.ranks(site.shape, multiple, site.groups)
            if ranks:
                factors[site.id, scheme.name] = scheme.factor(weight, None, None, largest(ranks), site.groups)
        nowhere = Positions(0.0, *(((0.0,) * (len(site.shape) - 2),) * 2))
        curves.append(_curve(site, (nowhere,), factors, multiple))
    return Decomposed(tuple(curves), factors)


def cost_curves(found: Found, multiple: int) -> tuple[Curve, ...]:
    """Return what every option would cost in parameters and bytes, with nothing decomposed: is a goal reachable?"""
    return tuple(
        Curve(
            site.id,
            (
                Option(DENSE, (), layout_cost(site, dense_layout(site), ())),
                *(
                    Option(scheme.name, ranks, layout_cost(site, scheme.layout(site.shape, ranks, site.groups), ()))
                    for scheme in SCHEMES
                    for ranks in scheme.ranks(site.shape, multiple, site.groups)
                ),
            ),
        )
        for site in found.sites
    )


def _curve(site: Site, places: Sequence[Positions], factors: Mapping[tuple[str, str], Factors], multiple: int) -> Curve:
    dense = Option(DENSE, (), layout_cost(site, dense_layout(site), places))
    options = [option for scheme in SCHEMES for option in _options(site, scheme, places, factors, multiple)]
    return Curve(site.id, (dense, *undominated(options)))


def _options(
    site: Site,
    scheme: Scheme,
    places: Sequence[Positions],
    factors: Mapping[tuple[str, str], Factors],
    multiple: int,
) -> list[Option]:
    return [
        Option(
            scheme.name,
            ranks,
            layout_cost(site, scheme.layout(site.shape, ranks, site.groups), places),
            factors[site.id, scheme.name].error(ranks),
        )
        for ranks in scheme.ranks(site.shape, multiple, site.groups)
    ]


def undominated(options: Sequence[Option], worth: Callable[[Option], float] = lambda o: o.error) -> list[Option]:
    """Return the options that no other beats in parameters, MACs and `worth` at once, by falling parameters."""
    kept = []
    for option in options:
        better = any(
            _at_most(other.cost, option.cost)
            and worth(other) <= worth(option)
            and (other.cost, worth(other)) != (option.cost, worth(option))
            for other in options
        )
        if not better:
            kept.append(option)
    return sorted(kept, key=lambda o: (-o.cost.parameters, o.scheme, o.ranks))


def _at_most(one: Cost, other: Cost) -> bool:
    return one.parameters <= other.parameters and one.macs <= other.macs
