"""What a group of sites saw in one batch: what is projected (z), and the gradient of the loss there (e)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_lowrank.collection.site_tensors import SiteTensors
from onnx_lowrank.types import Array, SideName, Site


@dataclass(frozen=True, slots=True, eq=False)
class GradientBatch:
    """values, gradients: by the tensors' names. numbers: which samples; samples: their rows.

    units: how many parts are summed over on their own; 1 where the samples cannot be told apart.
    """

    tensors: SiteTensors
    values: Mapping[str, Array]
    gradients: Mapping[str, Array]
    numbers: Sequence[int]
    samples: int
    units: int

    def vectors(self, site: Site, side: SideName, every: int = 1) -> Iterator[tuple[Array, Array]]:
        """Yield z and e, both (units · positions, d) float32, for every call of the site.

        Of an image one of `every` lines is taken, beginning at another one in every batch.
        """
        lines = slice(self.numbers[0] % every, None, every) if every > 1 else None
        for call in self.tensors.inventory.calls[site.id]:
            yield self.tensors.vectors(site, side, call, self.values, self.gradients, lines)

    def transposed(self, site: Site) -> tuple[bool, ...]:
        """Return for every call of the site whether it reads the weight transposed."""
        return tuple(call.transposed for call in self.tensors.inventory.calls[site.id])

    def ends(self, site: Site) -> list[tuple[Array, Array]]:
        """Return the input and the gradient at the output of every call, as they are in the graph."""
        calls = self.tensors.inventory.calls[site.id]
        return [(self.values[call.data], self.gradients[call.output]) for call in calls]
