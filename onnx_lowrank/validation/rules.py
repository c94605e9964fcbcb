"""When a candidate holds: by a test that claims something, or by the estimate alone, which claims nothing."""

from __future__ import annotations

from typing import Protocol

from onnx_lowrank.goals import Gate
from onnx_lowrank.types import Bound, Interval, Word
from onnx_lowrank.validation.findings import within


class Rule(Protocol):
    """One way to decide. ends: after a plan that does not hold no level is left, so no other plan is tested."""

    name: Word
    ends: bool

    def holds(self, drop: Interval, bound: Bound, allowed: float, scale: float) -> bool:
        """Return whether a drop is small enough; `scale`: the size of the numbers compared, for rounding."""


class Certified:
    """A test at the gate's confidence rejects that the drop is what is allowed, or more."""

    name: Word = "certified"
    ends = True

    def holds(self, drop: Interval, bound: Bound, allowed: float, scale: float) -> bool:
        """Return whether every larger drop is rejected."""
        return bound.value <= allowed


class Observed:
    """The estimated drop is at most what is allowed."""

    name: Word = "observed"
    ends = False

    def holds(self, drop: Interval, bound: Bound, allowed: float, scale: float) -> bool:
        """Return whether the estimate is small enough, but for rounding."""
        return within(drop.estimate, allowed, scale)


RULES: tuple[Rule, ...] = (Certified(), Observed())


def rule_of(gate: Gate) -> Rule:
    """Return the rule that a gate asks for."""
    certified, observed = RULES
    return observed if gate.observed else certified
