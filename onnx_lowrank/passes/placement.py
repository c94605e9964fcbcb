"""Where the identity of interpolative factors goes: on which side, and how its rows are chosen.

[I; C] and [I D] hold up to an order of channels. In the order of costs: neighbours that take any order (their constants
are permuted, `graph` says where), neighbouring rows (a Concat or a Split does it), a Gather. Neighbouring rows may have
larger coefficients than freely chosen ones, and rounding grows with them: up to the bound of the number type.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from onnx_lowrank.errors import PlanError
from onnx_lowrank.numerics.interpolative import free_rows, run_of_rows
from onnx_lowrank.schemes.interpolative import Choosing, interpolated, possible_sides, sides_of
from onnx_lowrank.types import Chain, SideName, Site, Stage
from onnx_lowrank.weights.storage import Storage

RUN_BOUND, NARROW_BOUND = 64.0, 2.0
"""The largest coefficient of neighbouring rows, in float32 (and float64) and in narrower types."""


class Placed(NamedTuple):
    """A chain with its identities. free: the sides on which neighbours take the channels in another order."""

    chain: Chain
    free: frozenset[SideName]


def placed(
    chain: Chain,
    site: Site,
    storage: Storage,
    free: Collection[SideName] = (),
    *,
    avoided: Collection[SideName] = (),
    narrow: bool = False,
) -> Placed:
    """Return a site's plain chain with an identity on every side that counts, each in the cheapest place.

    free: the sides on which any order of channels will do; avoided: those that are taken only where the other will not
    do. narrow: factors will be rounded further than `storage` does. Plain where rounding allows no identity.
    """
    bound = NARROW_BOUND if narrow or storage.narrow else RUN_BOUND
    sides = sides_of(chain, site.identity)
    if len(chain.stages) == 2 and sides:  # one identity, on either side
        able = [side for side in possible_sides(chain.layout, site.groups) if side in site.identity]
        return _first(chain, [side for side in able if side not in avoided] or able, bound, free)
    taken: set[SideName] = set()
    for side in sides:
        chain, used = _first(chain, [side], bound, free)
        taken |= used
    return Placed(chain, frozenset(taken))


def absorbed(made: Placed) -> Chain:
    """Return the chain as it is once neighbours have taken the channels of its free sides in another order."""
    stages = list(made.chain.stages)
    if "out" in made.free:
        stages[-1] = replace(stages[-1], passed=_first_ones(stages[-1].passed, stages[-1].rows, stages[-1].groups))
    if "in" in made.free:
        stages[0] = replace(stages[0], added=_first_ones(stages[0].added, stages[0].columns, stages[0].groups))
    return Chain(tuple(stages))


def _first_ones(chosen: tuple[int, ...], width: int, groups: int) -> tuple[int, ...]:
    """Return the first channels of every group in the place of chosen ones."""
    count = len(chosen) // groups
    return tuple(group * (width // groups) + place for group in range(groups) for place in range(count))


def placed_together(
    chains: Sequence[Chain], site: Site, storage: Storage, free: Collection[SideName] = (), *, narrow: bool = False
) -> tuple[list[Chain], frozenset[SideName]]:
    """Return the plain chains of a shared input with an identity in the stage that is one and the same in all.

    site: any of them. Raises PlanError where the first stages are not the same.
    """
    first, lasts = chains[0].stages[0], [chain.stages[-1].weight for chain in chains]
    if not all(np.array_equal(chain.stages[0].weight, first.weight) for chain in chains):
        raise PlanError(
            "the factors of a shared input do not begin with the same one: give those that were made together"
        )
    inputs = tuple(side for side in site.identity if side == "in")
    joined, able = Chain((first, Stage(np.concatenate(lasts)))), replace(site, identity=inputs)
    whole, taken = placed(joined, able, storage, free, narrow=narrow)
    shared, own = whole.stages
    owns = np.split(own.weight, np.cumsum([len(last) for last in lasts])[:-1])
    return [Chain((shared, Stage(part))) for part in owns], taken


def _first(chain: Chain, sides: list[SideName], bound: float, free: Collection[SideName]) -> Placed:
    for side, choose, anywhere in _places(sides, bound, free, grouped=chain.stages[0].groups > 1):
        made = interpolated(chain, side, choose)
        if made is not None:
            return Placed(made, frozenset({side}) if anywhere else frozenset())
    return Placed(chain, frozenset())


def _places(
    sides: list[SideName], bound: float, free: Collection[SideName], *, grouped: bool
) -> Iterator[tuple[SideName, Choosing, bool]]:
    """Yield places by rising cost. Groups have rows of their own each: together they are no neighbours."""
    yield from ((side, free_rows, True) for side in sides if side in free)
    if not grouped:
        yield from ((side, partial(run_of_rows, bound=bound), False) for side in sides)
    yield from ((side, free_rows, False) for side in sides)
