"""What a comparison on held-out samples says."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How far one output moved, over all samples."""

    name: str
    relative_l2: float
    cosine: float
    max_error: float
    finite: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """Original against candidate on held-out samples. Truthy when the candidate holds.

    `drop` is how much worse the candidate is (positive is worse, whatever the metric's direction); `bound` is the
    number that was compared with `allowed`: the drop's estimate, or the upper end of its interval.
    """

    passed: bool
    metric: str
    higher_is_better: bool
    samples: int
    original: Interval
    candidate: Interval
    drop: Interval
    bound: float
    allowed: float
    agreement: Interval | None = None
    differences: tuple[OutputDifference, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.passed
