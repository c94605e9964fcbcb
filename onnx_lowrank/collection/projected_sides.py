"""The sides of a weight that its truncations project: its outputs, or its inputs."""

from __future__ import annotations

from onnx_lowrank.ops import SIDES, Call
from onnx_lowrank.schemes import ChainScheme, fitting
from onnx_lowrank.types import SideName, Site
from onnx_lowrank.weights.inventory import Inventory


def sides_of(site: Site, multiple: int = 1) -> tuple[SideName, ...]:
    """Return the sides that the schemes of a site project on: both of a kernel, the smaller one of a matrix."""
    schemes = (scheme for scheme, _ in fitting(site, multiple))
    return tuple(dict.fromkeys(side for scheme in schemes for side in scheme.sides(site.shape, site.groups)))


def looked_at(inventory: Inventory, multiple: int = 1) -> dict[str, tuple[SideName, ...]]:
    """Return site id -> the sides of which something is collected: its schemes', both of a chain's, shared inputs."""
    members_by_site = {member for shared in inventory.shared_inputs for member in shared.members}
    looked: dict[str, tuple[SideName, ...]] = {}
    for site in inventory.sites:
        own = sides_of(site, multiple)
        more: tuple[SideName, ...] = ("in",) if site.id in members_by_site else ()
        if any(isinstance(scheme, ChainScheme) for scheme, _ in fitting(site, multiple)):
            more = SIDES  # through which its chains are scored, though a kernel of one channel projects no input
        looked[site.id] = tuple(dict.fromkeys((*own, *more)))
    return looked


def width_of(site: Site, side: SideName) -> int:
    """Return the channels of a side, of one group where the weight is grouped."""
    return site.shape[0] // site.groups if side == "out" else site.shape[1]


def other(side: SideName) -> SideName:
    """Return what a side is of the transposed weight."""
    return "in" if side == "out" else "out"


def at_call(sides: tuple[SideName, ...], call: Call) -> tuple[SideName, ...]:
    """Return sides of a weight as a call has them."""
    return tuple(map(other, sides)) if call.transposed else sides
