"""Of plans that lose the same, the one that the rule names: not the one that a solver happened to find.

A weight takes the option that loses no more and costs no more, and of several the one that costs least, then the one
that `schemes.preference` puts first. Of weights whose options are all alike the first in the graph keeps most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.numerics.rounding import not_above, rounded
from onnx_lowrank.schemes import preference
from onnx_lowrank.types import Array, Curve


def settled(
    picks: Sequence[int], losses: Sequence[Array], costs: Sequence[Array], curves: Sequence[Curve]
) -> list[int]:
    """Return the picks by the rule, losing and costing no more.

    losses: (options,) a site. costs: (resources, options) a site, of all resources that a budget binds, the first one
    first. Options of a shared input stay as they are.
    """
    values = [rounded(loss) for loss in losses]
    chosen = [
        _preferred(pick, value, cost, curve)
        for pick, value, cost, curve in zip(picks, values, costs, curves, strict=True)
    ]
    alike: dict[object, list[int]] = {}
    for site, (value, cost, curve) in enumerate(zip(values, costs, curves, strict=True)):
        if not any(option.shared_input for option in curve.options):
            names = tuple(option.form for option in curve.options)
            alike.setdefault((names, value.tobytes(), cost.tobytes()), []).append(site)
    for sites in alike.values():
        ordered = sorted((chosen[site] for site in sites), key=lambda pick: (-costs[sites[0]][0, pick], pick))
        for site, pick in zip(sites, ordered, strict=True):
            chosen[site] = pick
    return chosen


def _preferred(pick: int, loss: Array, cost: Array, curve: Curve) -> int:
    if curve.options[pick].shared_input:
        return pick
    free = np.array([not option.shared_input for option in curve.options])
    among = np.flatnonzero(free & (cost <= cost[:, [pick]]).all(0))
    least = float(loss[among].min())
    near = [int(i) for i in among if not_above(float(loss[i]), least)]
    return min(near, key=lambda i: (cost[0, i], preference(curve.options[i])))
