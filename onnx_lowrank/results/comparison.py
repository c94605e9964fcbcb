"""The result of `compare`."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.results.brief import html, line, size_rows, sizes
from onnx_lowrank.results.parts import Size
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Verdict


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comparison:
    """Two models on the same samples. Truthy when the second holds against the first."""

    first: str
    second: str
    verdict: Verdict
    before: Size
    after: Size
    latency: Timing
    metric: str
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.verdict.passed

    def __repr__(self) -> str:
        drop = f"{self.verdict.metric} drops by {self.verdict.drop.estimate:.4f}"
        return line("Comparison", self.verdict.word.upper(), drop, sizes(self.before, self.after))

    def _repr_html_(self) -> str:
        heads = ("", self.first, self.second, "")
        return html(repr(self).strip("<>"), heads, size_rows(self.before, self.after))
