"""The result of `compare`."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lowrank.results.parts import Size
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import Verdict


@dataclass(frozen=True, slots=True, eq=False)
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
