"""The result of a comparison on held-out samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias


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
class Bound:
    """The smallest drop that is certified: every larger one is rejected at `confidence`, one-sided.

    method: the test. exact: it keeps its level for every number of samples; otherwise for many of them (asymptotic).
    """

    value: float
    confidence: float
    method: str
    exact: bool


Word: TypeAlias = Literal["certified", "observed", "failed"]
"""certified: a test rejects that the drop is as large as allowed or larger. observed: the estimate is within what is
allowed, and nothing is claimed. failed: neither."""


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """An output that the metric does not read: its own drop from the original, and whether that is allowed."""

    name: str
    metric: str
    drop: Interval
    bound: Bound
    allowed: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is claimed of a model, as it is written into its file: numbers of six digits.

    word: certified or observed. drop, low, high: the estimate and its two-sided interval; bound: the smallest drop
    that is certified; allowed: what was asked for. samples, units: how many, and how many of them are independent.
    plans: how many were tested on the set, `validation_sha256`.
    """

    word: Word
    metric: str
    samples: int
    units: int
    drop_type: str
    allowed: float
    drop: float
    low: float
    high: float
    bound: float
    confidence: float
    method: str
    plans: int
    validation_sha256: str

    @staticmethod
    def of(verdict: Verdict, plans: int, validation: str) -> Certificate:
        """Return what a verdict claims."""
        drop, bound = verdict.drop, verdict.bound
        return Certificate(
            verdict.word, verdict.metric, verdict.samples, verdict.units, verdict.drop_type, verdict.allowed,
            _six(drop.estimate), _six(drop.low), _six(drop.high), _six(bound.value),
            bound.confidence, bound.method, plans, validation,
        )  # fmt: skip


def _six(value: float) -> float:
    return float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Original against candidate on held-out samples. Truthy when the candidate holds: certified, or observed.

    `drop` is how much worse the candidate is (positive is worse, whatever the metric's direction), between the ends of
    its two-sided interval; `bound` the smallest drop that is certified; `others` the outputs that the metric does not
    look at; `unexplained` the share of samples that the metric calls right before and after although the decision
    changed; `units` how many independent samples there are (groups count once).
    """

    word: Word
    metric: str
    higher_is_better: bool
    samples: int
    original: Interval
    candidate: Interval
    drop: Interval
    bound: Bound
    allowed: float
    drop_type: str = "absolute"
    agreement: Interval | None = None
    differences: tuple[OutputDifference, ...] = ()
    others: tuple[OutputVerdict, ...] = ()
    units: int = 0
    unexplained: float = 0.0
    reason: str = ""
    notes: tuple[str, ...] = field(default=())

    def claim(self, plans: int) -> str:
        """Return in one line what is claimed after so many plans were tested, its word first."""
        tested = "1 plan tested" if plans == 1 else f"{plans} plans tested"
        word = "observed, not certified" if self.word == "observed" else self.word
        return f"{word}: {self.reason} (n = {self.samples:,}, {tested})"

    def gain_claim(self, plans: int) -> str:
        """Return in one line what is claimed of the one plan that was chosen on other samples: better, or not shown so.

        The smallest drop that is certified may be negative: then it is a gain that is certified, by the same test.
        """
        claim = self.claim(plans)
        share = 100.0 if self.drop_type == "relative" else 1.0
        unit = " %" if self.drop_type == "relative" else ""
        if self.word == "certified" and self.bound.value < 0:
            size, least = -share * self.drop.estimate, -share * self.bound.value
            return (
                f"certified better: {self.metric} is better by {size:.3g}{unit}; at {100 * self.bound.confidence:g} %"
                f" confidence by at least {least:.3g}{unit} (n = {self.samples:,})"
            )
        low, high = -share * self.drop.high, -share * self.drop.low
        return f"{claim}; not shown to be better (gain between {low:.3g} and {high:.3g}{unit})"

    @property
    def passed(self) -> bool:
        """Whether the candidate holds."""
        return self.word != "failed"

    def __bool__(self) -> bool:
        return self.passed
