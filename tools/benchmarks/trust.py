"""Part "trust": how often a certified model loses more than is allowed, on real draws and in simulation.

It needs no zoo model, and has a page of its own, `trust.md` beside the raw lines.
"""

from __future__ import annotations

from benchmarks import trust_draws, trust_simulation
from benchmarks.lines import Lines
from benchmarks.trust_parts import PART

__all__ = ["MODEL", "PART", "measure"]
MODEL = "demo"
"""Stands for the model in what is told of the run."""


def measure(lines: Lines) -> None:
    """Run every missing draw and cell. Raises LowRankError, RecipeError where the data set is missing."""
    trust_draws.measure(lines)
    trust_simulation.measure(lines)
