"""Which sides of a site may have their channels in any order, because all that makes or reads them can follow.

Two sites whose orders would meet in one tensor cannot both have theirs: who comes first in the graph has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from onnx_lowrank.graph.orders import OrderFlow, Region
from onnx_lowrank.ops import SIDES, Call
from onnx_lowrank.ops.op import StageSite
from onnx_lowrank.types import SideName, Site


@dataclass(eq=False)
class FreeOrders:
    """A model as it is before it is rewritten. taken: tensors of which the order is spoken for."""

    model: onnx.ModelProto
    taken: set[str] = field(default_factory=set)

    @cached_property
    def _flow(self) -> OrderFlow:
        return OrderFlow(self.model)

    def sides(self, site: Site, calls: Sequence[Call]) -> dict[SideName, Region]:
        """Return the sides of which the order is free, with what would follow it."""
        if site.body or len(calls) > 1:
            return {}
        regions = {side: self._region(site, calls[0], side) for side in SIDES if side in site.identity}
        return {side: region for side, region in regions.items() if region is not None}

    def open_inputs(self, calls: Sequence[Call]) -> bool:
        """Return whether no site has spoken for the order of what these calls read."""
        return self.taken.isdisjoint(call.data for call in calls)

    def take(self, region: Region) -> None:
        """Note that the order of these tensors is set."""
        self.taken.update(region.axes)

    def keep(self, tensor: str) -> None:
        """Note that a tensor has to stay in its order."""
        self.taken.add(tensor)

    def _region(self, site: Site, call: Call, side: SideName) -> Region | None:
        if call.transposed:  # what is factored is read both ways
            return None
        if side == "out":
            axis = call.op.channel_axis(call, StageSite(1, 2, "", "", ""))
            found = None if axis is None else self._flow.after(call.output, axis, site.shape[0])
        else:
            axis = call.op.input_axis(call, StageSite(0, 2, "", "", ""))
            columns = site.groups * site.shape[1]
            found = None if axis is None else self._flow.before(call.data, axis, columns, call.output)
        if not isinstance(found, Region) or not self.taken.isdisjoint(found.axes):
            return None
        return found
