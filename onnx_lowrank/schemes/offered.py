"""What a site is offered: forms, the ranks of a scheme that cost less than the weight, and the layout of each.

A scheme says what ranks there are; whether factors are interpolative, and so what they cost, hangs on what the site's
operators can do (`Site.identity`). Here the two are put together, for all schemes alike.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from onnx_lowrank.cost import own_layout
from onnx_lowrank.schemes.channelwise import Channelwise
from onnx_lowrank.schemes.interpolative import interpolative_layout, stored_sides
from onnx_lowrank.schemes.kernel_last import KernelLast
from onnx_lowrank.schemes.scheme import ChainScheme, Scheme, thinned
from onnx_lowrank.schemes.separable import Separable
from onnx_lowrank.schemes.shared_factor import shared_sides
from onnx_lowrank.schemes.svd import KernelFirst, Svd
from onnx_lowrank.schemes.tucker import Tucker2
from onnx_lowrank.types import DENSE, SHARED, Form, Layout, Option, Ranks, SharedInput, SideName, Site

SCHEMES: tuple[Scheme, ...] = (Svd(), KernelFirst(), KernelLast(), Tucker2(), Separable(), Channelwise())
"""Every scheme, in the order in which ties are decided."""


def by_name(name: str) -> Scheme:
    """Return the scheme of that name. Raises KeyError."""
    return {scheme.name: scheme for scheme in SCHEMES}[name]


def fitting(site: Site, multiple: int) -> list[tuple[Scheme, list[Ranks]]]:
    """Return every scheme that fits a site, with the ranks that it offers."""
    return [(scheme, ranks) for scheme in SCHEMES if (ranks := ranks_of(scheme, site, multiple))]


def ranks_of(scheme: Scheme, site: Site, multiple: int) -> list[Ranks]:
    """Return the ranks that a scheme offers a site, all of which cost fewer parameters; empty where it does not fit.

    Of a site for which a user decided it, those ranks alone, where they are not above the others.
    """
    if scheme.splits and site.whole:
        return []
    offered = list(cached_ranks(scheme.name, site.shape, site.groups, site.identity, multiple))
    fixed = site.fixed
    if fixed is None or not fixed.factored or not offered:
        return offered
    if fixed.scheme not in (None, scheme.name):
        return []
    return offered if fixed.ranks is None else [fixed.ranks] if among(fixed.ranks, offered) else []


def among(ranks: Ranks, offered: Sequence[Ranks]) -> bool:
    """Return whether ranks are not above some that are offered: a grid is for the search, and not for who decides."""
    return any(
        len(ranks) == len(other) and all(0 < rank <= most for rank, most in zip(ranks, other, strict=True))
        for other in offered
    )


@functools.lru_cache(maxsize=4096)
def cached_ranks(
    name: str, shape: tuple[int, ...], groups: int, able: tuple[SideName, ...], multiple: int
) -> tuple[Ranks, ...]:
    """Return `ranks_of`, kept: it is asked for again and again."""
    scheme, dense = by_name(name), math.prod(shape)
    ranks = [
        ranks
        for ranks in scheme.ranks(shape, multiple, groups)
        if sum(math.prod(stage) for stage, _ in _layout(scheme, shape, groups, able, ranks)) < dense
    ]
    return tuple(thinned(ranks) if ranks and len(ranks[0]) == 1 else ranks)


def _layout(scheme: Scheme, shape: tuple[int, ...], groups: int, able: tuple[SideName, ...], ranks: Ranks) -> Layout:
    layout = scheme.layout(shape, ranks, groups)
    return interpolative_layout(layout, groups, _sides(scheme, layout, groups, able))


def _sides(scheme: Scheme, layout: Layout, groups: int, able: tuple[SideName, ...]) -> tuple[SideName, ...]:
    """Return the sides without an identity; a scheme that projects no side has stages that are grouped differently."""
    return () if isinstance(scheme, ChainScheme) else stored_sides(layout, groups, able)


def form_of(scheme: str, ranks: Ranks, site: Site) -> Form:
    """Return the form that a site takes at these ranks: without identity blocks where its operators can do it."""
    made = by_name(scheme)
    layout = made.layout(site.shape, ranks, site.groups)
    return Form(scheme, ranks, interpolative=bool(_sides(made, layout, site.groups, site.identity)))


def shared_form(shared: SharedInput, ranks: Ranks) -> Form:
    """Return the form of all weights of a shared input."""
    return Form(SHARED, ranks, interpolative=bool(shared_sides(shared, ranks)))


def layout_of(form: Form, site: Site) -> Layout:
    """Return the layout of what a form stores of a site, not computed. Raises KeyError for an unknown scheme."""
    if form.scheme == DENSE:
        return own_layout(site)
    able = site.identity if form.interpolative else ()
    return _layout(by_name(form.scheme), site.shape, site.groups, able, form.ranks)


def preference(option: Option) -> tuple[int, float, int, Ranks]:
    """Return what sorts options that lose the same: fewest parameters, fewest MACs, the order of SCHEMES, low ranks.

    The shared first factor comes last; dense comes before all that costs as much.
    """
    names = [scheme.name for scheme in SCHEMES]
    place = len(names) if option.scheme == SHARED else -1 if option.scheme == DENSE else names.index(option.scheme)
    return option.cost.parameters, option.cost.macs, place, option.ranks
