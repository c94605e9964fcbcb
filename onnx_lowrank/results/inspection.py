"""The result of `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_lowrank.results.brief import html, line, megabytes
from onnx_lowrank.types import Provenance, SharedInput, Site, Skip
from onnx_lowrank.types.words import counted, verb


@dataclass(frozen=True, slots=True)
class WeightRow:
    """A factorable weight: the rank at which it breaks even, and those that hold 90 and 99 % of its plain energy.

    break_even: None where every rank below the full one is smaller than the weight, as identity blocks of its factors
    are not stored. A rank for 99 % far under the full rank is a weight that compresses even without data; rank_for is
    empty where weights were not decomposed.
    """

    site: Site
    bytes: int
    share: float
    break_even: float | None
    full_rank: int
    rank_for: Mapping[float, int]


@dataclass(frozen=True, slots=True, repr=False)
class Inspection:
    """What a model holds: factorable weights, largest first, and the others with their reasons.

    shared_inputs: weights that read the same tensor and may share their first factor, in the order of the graph.
    provenance: what the file says of how it was made, where it was made here.
    """

    source: str
    opset: int
    parameters: int
    bytes: int
    rows: tuple[WeightRow, ...]
    skips: tuple[Skip, ...]
    notes: tuple[str, ...] = ()
    shared_inputs: tuple[SharedInput, ...] = ()
    provenance: Provenance | None = None

    @property
    def share(self) -> float:
        """Share of all parameters in factorable weights."""
        return sum(row.site.parameters for row in self.rows) / max(self.parameters, 1)

    def __repr__(self) -> str:
        count, whole = len(self.rows), counted(self.parameters, "parameter")
        held = f"{counted(count, 'factorable weight')} {verb(count, 'holds', 'hold')} {self.share:.1%} of {whole}"
        return line("Inspection", held, megabytes(self.bytes))

    def _repr_html_(self) -> str:
        rows = (
            (row.site.weight, "×".join(map(str, row.site.shape)), megabytes(row.bytes), f"{row.share:.1%}")
            for row in self.rows
        )
        return html(repr(self).strip("<>"), ("weight", "shape", "size", "share"), rows)
