"""The result of `analyze`."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.results.brief import html, line
from onnx_lowrank.results.result import Result
from onnx_lowrank.types import Site


@dataclass(frozen=True, slots=True)
class SizePoint:
    """What a size would cost. kept: share of the whole model's resource.

    predicted: rise of the loss. measured, changed: divergence and share of decisions that change on samples that
    nothing was fitted on; None without any. bound: the drop that the validation samples would be expected to certify.
    """

    kept: float
    predicted: float
    measured: float | None = None
    changed: float | None = None
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """What a weight by itself would lose at a part of its cost, and its share of the model's parameters."""

    site: Site
    share: float
    loss: float
    error: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Analysis:
    """What compressing a model would cost, before anything is validated. layers: the largest losses first.

    reason: in one line whether it is worth it. unit: of losses. result: what was collected, as of a run that saved
    nothing, for reports. part: the share of its own cost that a layer's loss is told at.
    """

    points: tuple[SizePoint, ...]
    layers: tuple[LayerLoss, ...]
    reason: str
    unit: str
    resource: str
    result: Result
    part: float = 0.5

    def __repr__(self) -> str:
        return line("Analysis", self.reason)

    def _repr_html_(self) -> str:
        rows = (
            (
                f"{point.kept:.1%}",
                f"{point.predicted:.2g}",
                "" if point.measured is None else f"{point.measured:.2g}",
                "" if point.bound is None else f"{point.bound:.4f}",
            )
            for point in self.points
        )
        heads = (f"{self.resource} kept", f"predicted loss, {self.unit}", "measured", "expected bound of the drop")
        return html(self.reason, heads, rows)
