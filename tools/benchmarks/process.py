"""Runs in processes of their own, with what they took: the command line, or a module of the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lines import PACKAGE
from benchmarks.zoo import ROOT


def watched(command: Sequence[str]) -> dict[str, Any]:
    """Return exit code, seconds, peak memory and last words of a Python process, given what comes behind `python`."""
    here = Path(__file__).resolve().parent
    paths = filter(None, [str(PACKAGE.parent), str(here.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}  # the same package here and there
    call = [sys.executable, str(here / "peak.py"), sys.executable, *command]
    done = subprocess.run(call, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def optimized(arguments: Sequence[Any], report: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what `onnx-lowrank optimize` took (see `watched`), and its report, None where it wrote none."""
    report.unlink(missing_ok=True)
    used = watched(["-m", "onnx_lowrank.cli", "optimize", *map(str, arguments), "--report", str(report), "--quiet"])
    return used, json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None
