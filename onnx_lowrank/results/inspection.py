"""The result of `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_lowrank.types import SharedInput, Site, Skip


@dataclass(frozen=True, slots=True)
class WeightRow:
    """A factorable weight: the rank at which it breaks even, and those that hold 90 and 99 % of its plain energy.

    break_even: None where every rank below the full one is smaller than the weight, as identity blocks of its factors
    are not stored. A rank for 99 % far under the full rank is a weight that compresses even without data.
    """

    site: Site
    bytes: int
    share: float
    break_even: float | None
    full_rank: int
    rank_for: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a model holds: factorable weights, largest first, and the others with their reasons.

    shared_inputs: weights that read the same tensor and may share their first factor, in the order of the graph.
    """

    source: str
    opset: int
    parameters: int
    bytes: int
    rows: tuple[WeightRow, ...]
    skips: tuple[Skip, ...]
    notes: tuple[str, ...] = ()
    shared_inputs: tuple[SharedInput, ...] = ()

    @property
    def share(self) -> float:
        """Share of all parameters in factorable weights."""
        return sum(row.site.parameters for row in self.rows) / max(self.parameters, 1)
