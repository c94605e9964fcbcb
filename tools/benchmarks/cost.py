"""Part "cost": what collecting costs against a plain forward over the same samples, and its peak memory.

python cost_run.py MODEL CALIBRATION METRIC REPEATS THREADS    (tools/benchmarks/cost_run.py, a process of its own)
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.lines import Lines
from benchmarks.zoo import ROOT, Entry

PART = "cost"
CELL = "collection"
HERE = Path(__file__).resolve().parent
MOST_RATIO = 8.0
REPEATS = 3


class CostError(Exception):
    """A run that gave no answer."""


def most_memory(entry_bytes: int) -> float:
    """Return the bytes that collection may take: four times the model and 1 GB."""
    return 4.0 * entry_bytes + 1e9


def measure(entry: Entry, lines: Lines) -> None:
    """Measure a model's collection, if that has not been done. Raises CostError."""
    if lines.has(PART, entry.name, CELL, entry.sha256):
        return
    repeats = 1 if lines.setting.quick else REPEATS
    command = [
        sys.executable, str(HERE / "cost_run.py"), str(entry.model), str(entry.calibration.path),
        str(repeats), str(lines.setting.threads),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CostError(f"{entry.name}: the cost run failed: {done.stderr.strip().splitlines()[-1:]}")
    data: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    data["model_bytes"] = entry.model.stat().st_size
    lines.add(PART, entry.name, CELL, entry.sha256, data)
    print(
        f"{entry.name}: collection costs {data['ratio']:.2f} forwards, {data['peak_bytes'] / 1e6:,.0f} MB", flush=True
    )
