"""The sides of a weight that its truncations project: its outputs, or its inputs."""

from __future__ import annotations

from onnx_lowrank.curvature import SideName
from onnx_lowrank.ops import Call
from onnx_lowrank.schemes import SCHEMES, ranks_of
from onnx_lowrank.types import Site


def sides_of(site: Site, multiple: int = 1) -> tuple[SideName, ...]:
    """Return the sides that the schemes of a site project on: both of a kernel, the smaller one of a matrix."""
    fitting = (s for s in SCHEMES if ranks_of(s, site, multiple))
    return tuple(dict.fromkeys(side for s in fitting for side in s.sides(site.shape, site.groups)))


def width_of(site: Site, side: SideName) -> int:
    """Return the channels of a side, of one group where the weight is grouped."""
    return site.shape[0] // site.groups if side == "out" else site.shape[1]


def other(side: SideName) -> SideName:
    """Return what a side is of the transposed weight."""
    return "in" if side == "out" else "out"


def sides_at(site: Site, call: Call) -> tuple[SideName, ...]:
    """Return the sides that are asked for, as this call has them."""
    sides = sides_of(site)
    return tuple(map(other, sides)) if call.turned else sides
