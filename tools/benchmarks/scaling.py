"""Part "scaling": what one run of the command line costs by size of the model and by number of calibration samples.

The models are drawn (`synthetic.py`), each as large as asked for, so the zoo is not needed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import synthetic
from benchmarks.goals import RunError, under_watch
from benchmarks.lines import Lines

PART = "scaling"
MODEL = "synthetic"
"""Stands for the model in the raw lines."""
WIDTHS = (104, 176, 320, 576, 1024, 1440)
"""About 0.5, 1.5, 5, 16, 50 and 100 M parameters."""
SAMPLES = 512
COUNTS = (128, 256, 512, 1024, 2048, 4096)
WIDTH = 320
"""The model that meets every number of samples."""
VALIDATION = 512
QUICK_WIDTHS, QUICK_COUNTS, QUICK_WIDTH = WIDTHS[:2], COUNTS[:2], WIDTHS[0]
QUICK_SAMPLES = COUNTS[1]
KEEP = 0.5


def by_size(quick: bool) -> list[tuple[int, int]]:
    """Return (width, calibration samples) of the runs that differ in size, smallest first."""
    return [(width, QUICK_SAMPLES if quick else SAMPLES) for width in (QUICK_WIDTHS if quick else WIDTHS)]


def by_samples(quick: bool) -> list[tuple[int, int]]:
    """Return (width, calibration samples) of the runs that differ in samples, fewest first."""
    return [(QUICK_WIDTH if quick else WIDTH, count) for count in (QUICK_COUNTS if quick else COUNTS)]


def cell_name(width: int, count: int) -> str:
    """Return the name of a cell."""
    return f"{width}/{count}"


def measure(lines: Lines) -> None:
    """Run every missing cell, cheapest first; one that both lists have is run once. Raises RunError."""
    quick = lines.setting.quick
    key = hashlib.sha256(f"{synthetic.digest()} {VALIDATION} {KEEP}".encode()).hexdigest()
    for width, count in sorted({*by_size(quick), *by_samples(quick)}, key=lambda c: synthetic.parameters(c[0]) * c[1]):
        name = cell_name(width, count)
        if lines.has(PART, MODEL, name, key):
            continue
        data = _run(width, count, lines)
        lines.add(PART, MODEL, name, key, data)
        print(f"{MODEL}: {name}: {data['seconds']:.1f} s, {data['peak_bytes'] / 1e6:,.0f} MB", flush=True)


def _run(width: int, count: int, lines: Lines) -> dict[str, Any]:
    with _files(lines.folder / "runs", f"{MODEL}-{width}-{count}") as files:
        model, data, validation, out, report = files
        seed = lines.setting.seed
        onnx.save(synthetic.network(width, seed), model)
        for part, (path, size) in enumerate(((data, count), (validation, VALIDATION))):
            np.savez(path, input=synthetic.samples(size, seed, part))
        used = under_watch([sys.executable, "-m", "onnx_lowrank.cli", *_arguments(files, lines)])
        if used["exit"]:
            raise RunError(f"{PART} {width}/{count}: exit {used['exit']} (its words are above)")
        said = json.loads(report.read_text(encoding="utf-8"))
        return {
            **used, "parameters": said["before"]["parameters"], "bytes": model.stat().st_size, "samples": count,
            "validation": VALIDATION, "sites": len(said["sites"]), "steps": said["seconds"],
            "kept": said["after"]["parameters"] / said["before"]["parameters"],
            "agreement": said["verdict"]["candidate"]["estimate"], "saved_bytes": out.stat().st_size,
        }  # fmt: skip


def _arguments(files: list[Path], lines: Lines) -> list[str]:
    model, data, validation, out, report = map(str, files)
    return [
        "optimize", model, "-o", out, "--data", data, "--validation", validation, "--metric", "agreement",
        "--algorithm", "lossless", "--keep", f"{KEEP:g}", "--max-drop", "1", "--threads", str(lines.setting.threads),
        "--seed", str(lines.setting.seed), "--report", report, "--quiet",
    ]  # fmt: skip


@contextmanager
def _files(folder: Path, stem: str) -> Iterator[list[Path]]:
    """Yield paths of model, data, validation, output and report, none of which is there before or after."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = (".onnx", ".npz", ".validation.npz", ".out.onnx", ".json")
    files = [folder / f"{stem}{end}" for end in ends]
    for file in files:
        file.unlink(missing_ok=True)
    try:
        yield files
    finally:
        for file in files:
            file.unlink(missing_ok=True)
