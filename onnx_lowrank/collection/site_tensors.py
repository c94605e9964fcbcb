"""Where the sites of a group are seen in a graph: the tensors around them, and the gradients asked for there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_lowrank.collection.projected_sides import at_call, looked_at, other
from onnx_lowrank.gradient.build import share_name
from onnx_lowrank.ops import Call, straight
from onnx_lowrank.types import Array, SideName, Site
from onnx_lowrank.weights.inventory import Inventory


@dataclass(frozen=True, slots=True, eq=False)
class SiteTensors:
    """inputs: the model's own inputs. sides: site id -> the sides looked at. data: a call's output -> what it reads.

    The data may have another name than in the inventory: a float32 twin may read its inputs through a Cast. ends: what
    is asked for are inputs of the calls and gradients at their outputs, whatever sides are looked at.
    """

    inventory: Inventory
    inputs: frozenset[str]
    sides: Mapping[str, tuple[SideName, ...]]
    data: Mapping[str, str]
    ends: bool = False

    @staticmethod
    def of(model: onnx.ModelProto, inventory: Inventory, sites: Sequence[Site], *, ends: bool = False) -> SiteTensors:
        """Return the tensors around some sites of a model, or of its twin."""
        stored = {tensor.name for tensor in model.graph.initializer}  # before IR 4 they are listed as inputs, too
        made = {name: node for node in model.graph.node for name in node.output}
        calls = [call for site in sites for call in inventory.calls[site.id]]
        return SiteTensors(
            inventory,
            frozenset(value.name for value in model.graph.input) - stored,
            looked_at(replace(inventory, sites=tuple(sites))),
            {call.output: str(made[call.output].input[call.inputs.index(call.data)]) for call in calls},
            ends,
        )

    def at(self, site: Site, call: Call) -> tuple[SideName, ...]:
        """Return the sides that are looked at, as this call has them."""
        return at_call(self.sides[site.id], call)

    def outputs(self, sites: Sequence[Site]) -> list[str]:
        """Return the outputs of calls at which a gradient is wanted."""
        return [call.output for site, call in self._calls(sites) if self.ends or "out" in self.at(site, call)]

    def shares(self, sites: Sequence[Site]) -> dict[str, str]:
        """Return a call's output -> its data, where the gradient through this call alone is wanted."""
        inputs = [call.output for site, call in self._calls(sites) if not self.ends and "in" in self.at(site, call)]
        return {output: self.data[output] for output in inputs}

    def _calls(self, sites: Sequence[Site]) -> Iterator[tuple[Site, Call]]:
        yield from ((site, call) for site in sites for call in self.inventory.calls[site.id])

    def gradients(self, site: Site) -> Iterator[str]:
        """Yield what is asked of the gradient graph: e of every side and call."""
        for call in self.inventory.calls[site.id]:
            if self.ends or "out" in self.at(site, call):
                yield call.output
            if not self.ends and "in" in self.at(site, call):
                yield share_name(self.data[call.output], call.output)

    def values(self, sites: Sequence[Site]) -> list[str]:
        """Return the tensors that a run gives besides gradients: each once, the model's own inputs aside."""
        return [name for name in dict.fromkeys(self.around(sites)) if name not in self.inputs]

    def around(self, sites: Sequence[Site]) -> Iterator[str]:
        """Yield the names of data, outputs and biases that the sides of these sites are made of."""
        for site, call in self._calls(sites):
            if self.ends or "in" in self.at(site, call):
                yield call.data
            if not self.ends and "out" in self.at(site, call):
                yield call.output
                if len(call.inputs) > 2 and call.input(2):
                    yield call.input(2)

    def vectors(
        self,
        site: Site,
        side: SideName,
        call: Call,
        values: Mapping[str, Array],
        gradients: Mapping[str, Array],
        lines: slice | None = None,
    ) -> tuple[Array, Array]:
        """Return z and e (positions, d) of one call, float32; of an image only its `lines`.

        Of a node that reads the weight transposed, Ŵᵀ = Wᵀ Πᵀ, they are those of its other side, e first.
        """
        if call.transposed:
            z, e = self.vectors(site, other(side), straight(call), values, gradients, lines)
            return e, z
        if side == "out":
            bias = values.get(call.input(2)) if len(call.inputs) > 2 and call.input(2) else None
            z = call.linear(_part(values[call.output], lines), bias)
            return _single(z), _single(call.results(_part(gradients[call.output], lines)))
        share = gradients[share_name(self.data[call.output], call.output)]  # through this call alone: Wᵀ g
        x, pulled = (_part(array, lines) for array in (values[call.data], share))
        kernel = site.shape[2:]
        return _single(call.vectors(x, kernel)), _single(call.vectors(pulled, kernel))


def _part(array: Array, lines: slice | None) -> Array:
    """Return some lines of (N, C, lines, …)."""
    return array if lines is None else array[:, :, lines]


def _single(array: Array) -> Array:
    return np.asarray(array, np.float32)
