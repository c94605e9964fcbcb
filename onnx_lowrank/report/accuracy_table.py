"""Accuracy against size: what competed to be the most accurate, beside the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from onnx_lowrank.report.layout import titled
from onnx_lowrank.results.parts import Candidate
from onnx_lowrank.results.result import Result
from onnx_lowrank.types.words import counted

SINGLES = 3
"""Plans of a single weight that are shown: the best."""
WIDTH = 25
"""Characters of the picture; the original's line is where it says |."""


def accuracy_tables(result: Result) -> Iterator[RenderableType]:
    """Yield the table of gains by size, and what choosing gains; nothing where nothing competed."""
    shown = _shown(result.findings.candidates)
    if not shown:
        return
    reach = max(abs(c.gain) + c.error for c in shown if c.gain > -1) or 1.0
    reach = min(reach, 1.5 * max(max(c.gain + c.error for c in shown), 0.005))
    table = titled("Accuracy against size, on the samples that choose", "kept", "factors by", "gain", "", "")
    for candidate in shown:
        table.add_row(
            f"{100 * candidate.kept:.1f} %",
            candidate.basis + (", one weight" if candidate.single else ""),
            f"{candidate.gain:+.4f} ± {candidate.error:.4f}".replace("-", "−"),
            Text(_picture(candidate, reach)),
            _said(candidate),
        )
    yield table
    count = max(candidate.samples for candidate in shown)
    yield Text(f"|: the original; gain ± standard error on {count:,} samples, other than those of the claim")
    if result.findings.expected_gain is not None:
        gain = f"{result.findings.expected_gain:+.4f}".replace("-", "−")
        plans = counted(len(result.findings.candidates), "plan")
        yield Text(f"what choosing among {plans} gains, cross-validated: {gain}")
    yield ""


def _shown(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the best basis of every size, largest first, and the best single weights."""
    sizes: dict[int, Candidate] = {}
    for candidate in candidates:
        size = round(50 * candidate.kept)
        if not candidate.single and (size not in sizes or _worth(candidate) > _worth(sizes[size])):
            sizes[size] = candidate
    singles = sorted((c for c in candidates if c.single), key=_worth, reverse=True)[:SINGLES]
    return sorted([*sizes.values(), *singles], key=lambda candidate: -candidate.kept)


def _worth(candidate: Candidate) -> tuple[bool, float]:
    return candidate.finalist, candidate.gain - candidate.error


def _said(candidate: Candidate) -> str:
    if candidate.gain - 2 * candidate.error > 0:
        return "better"
    return "worse" if candidate.gain + 2 * candidate.error < 0 else ""


def _picture(candidate: Candidate, reach: float) -> str:
    """Return the interval of one standard error on a line from −reach to reach."""

    def place(value: float) -> int:
        return round((min(max(value / reach, -1.0), 1.0) + 1) / 2 * (WIDTH - 1))

    low, middle, high = (place(candidate.gain + k * candidate.error) for k in (-1, 0, 1))
    line = ["─" if low <= i <= high else " " for i in range(WIDTH)]
    line[(WIDTH - 1) // 2] = "|"
    line[middle] = "●"
    return "".join(line)
