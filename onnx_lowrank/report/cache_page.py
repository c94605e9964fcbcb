"""What the cache holds, as the terminal shows it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.markup import escape
from rich.text import Text

from onnx_lowrank.report import numbers
from onnx_lowrank.report.layout import titled
from onnx_lowrank.store import Entry

UNITS = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"))


def render_cache(folder: Path, entries: Sequence[Entry], now: float | None = None) -> Iterator[RenderableType]:
    """Yield a table of the steps whose results are kept, and what they take together. now: seconds of the epoch."""
    now = time.time() if now is None else now
    by_step: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_step[entry.what].append(entry)
    if entries:
        table = titled("Kept", "step", "results", "size", "seconds saved", "last used")
        for what, some in sorted(by_step.items(), key=lambda pair: -sum(entry.bytes for entry in pair[1])):
            seconds = sum(entry.seconds for entry in some)
            used = _ago(now - max(entry.used for entry in some))
            size = numbers.size(sum(entry.bytes for entry in some))
            table.add_row(escape(what), f"{len(some):,}", size, f"{seconds:,.0f}", used)
        yield table
    total = numbers.size(sum(entry.bytes for entry in entries))
    yield Text(f"{folder}: {numbers.counted(len(entries), 'result')}, {total if entries else 'nothing'}")


def _ago(seconds: float) -> str:
    for length, unit in UNITS:
        if seconds >= length:
            return f"{numbers.counted(int(seconds // length), unit)} ago"
    return "just now"
