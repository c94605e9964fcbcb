"""What was measured, and a line that says whether it is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.lines import Line

Inventory = Mapping[tuple[str, str, str], Line]
"""(part, model, cell) -> what was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line: what is asked for, what was measured, and whether it is met (None: not measured, or not all)."""

    asked: str
    measured: str
    met: bool | None

    @property
    def mark(self) -> str:
        """Return the word for the table."""
        return {True: "met", False: "**MISSED**", None: "open"}[self.met]
