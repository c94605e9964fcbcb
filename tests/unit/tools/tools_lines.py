"""Raw lines as the benchmark writes them, made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Line = dict[str, Any]


def raw(part: str, model: str, cell: str, data: Line, **more: Any) -> Line:
    machine = {"cpu": "a processor", "cores": "2", "system": "Linux", "numpy": "2.0"}
    circumstances = {"threads": 1, "source": "abc", "machine": machine, "load": 1.5}
    return {"part": part, "model": model, "cell": cell, **circumstances, "data": data, **more}


def page_of(bench: Callable[[str], Any], part: str, lines: list[Line], *, quick: bool = False) -> str:
    """The page of a part, from lines alone."""
    (there,) = (each for each in bench("bench").PARTS if each.name == part)
    text: str = bench("benchmarks.parts").page(there, lines, bench("benchmarks.lines").Setting(0, 1, quick))
    return text


def rows_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def verdict(original: float, candidate: float, drop: list[float], *, higher: bool = True) -> Line:
    values = {"original": [original, 0.5, 0.75], "candidate": [candidate, 0.5, 0.75], "drop": drop}
    return {"metric": "metrics.py:score", "n": 50, "higher_is_better": higher, **values}
