"""Part "goals": what a user gets, goal by goal, each run in a process of its own; and part "memory", by the CLI."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.curves import judge_of, said
from benchmarks.lines import PACKAGE, Lines
from benchmarks.zoo import ROOT, Entry
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.runtime.runner import Runner

HERE = Path(__file__).resolve().parent
MAX_DROP = 0.005
KEEP = 0.8
MEMORY_MODELS = ("minilm",)


class RunError(Exception):
    """A run that gave no answer: nothing is kept of it, and it is run again next time."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One goal with one sensitivity."""

    algorithm: str
    sensitivity: str

    @property
    def name(self) -> str:
        """The cell's name in the raw lines."""
        return f"{self.algorithm}/{self.sensitivity}"

    @property
    def arguments(self) -> str:
        """The goal as the command line takes it."""
        goal = f"--max-drop {MAX_DROP:g}" if self.algorithm == "compact" else f"--keep {KEEP:g}"
        return f"--algorithm {self.algorithm} {goal} --sensitivity {self.sensitivity}"


CELLS = (*(Cell("compact", s) for s in ("joint", "inputs", "weights")), Cell("lossless", "joint"))
QUICK_CELLS = CELLS[:1]


def measure(entry: Entry, lines: Lines) -> None:
    """Run every missing goal of a model. Raises RunError, LowRankError."""
    for cell in QUICK_CELLS if lines.setting.quick else CELLS:
        if lines.has("goals", entry.name, cell.name, entry.sha256):
            continue
        data = _run(entry, cell, lines)
        lines.add("goals", entry.name, cell.name, entry.sha256, data)
        print(f"{entry.name}: {cell.name} done: {data['outcome']}, {data['seconds']:.0f} s", flush=True)


def _run(entry: Entry, cell: Cell, lines: Lines) -> dict[str, Any]:
    stem = f"{entry.name}-{cell.algorithm}-{cell.sensitivity}"
    folder = lines.folder / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    order, answer, out = (folder / f"{stem}{end}" for end in (".order.json", ".answer.json", ".onnx"))
    for file in (answer, out):
        file.unlink(missing_ok=True)
    test = entry.main_test
    content = {
        "model": str(entry.model), "data": str(entry.calibration.path), "validation": str(entry.validation.path),
        "test": str(test.path) if test else None, "out": str(out), "metric": entry.metric,
        "algorithm": cell.algorithm, "max_drop": MAX_DROP, "keep": KEEP, "sensitivity": cell.sensitivity,
        "seed": lines.setting.seed, "threads": lines.setting.threads,
    }  # fmt: skip
    order.write_text(json.dumps(content), encoding="utf-8")
    used = under_watch([sys.executable, str(HERE / "goal_run.py"), str(order), str(answer)])
    if not answer.is_file():
        raise RunError(f"{stem}: exit {used['exit']} without an answer (its words are above)")
    data: dict[str, Any] = {**json.loads(answer.read_text(encoding="utf-8")), **used}
    if data["outcome"] == "error":
        raise RunError(f"{stem}: {data['reason']}")
    if out.is_file() != (data["outcome"] == "saved"):
        raise RunError(f"{stem}: outcome {data['outcome']!r}, and a file {'is' if out.is_file() else 'is not'} there")
    tests = _tests(entry, out, lines) if out.is_file() else {}
    return {**data, "command": _command(entry, cell, lines), "tests": tests}


def _command(entry: Entry, cell: Cell, lines: Lines) -> str:
    """Return what a user types for this cell, with the zoo in `zoo/`."""
    test = f" --test {entry.shown(entry.main_test.path)}" if entry.main_test else ""
    return (
        f"onnx-lowrank optimize {entry.shown(entry.model)} --data {entry.shown(entry.calibration.path)}"
        f" --validation {entry.shown(entry.validation.path)}{test} --metric {entry.metric}"
        f" {cell.arguments} --seed {lines.setting.seed}"
    )


def _tests(entry: Entry, saved: Path, lines: Lines) -> dict[str, Any]:
    """Judge the file on every test set, each by its own metric."""
    options = Options(seed=lines.setting.seed, runtime=Runtime(threads=lines.setting.threads))
    loaded = LoadedModel.of(entry.model, options)
    runner = Runner(saved, runtime=options.runtime)
    return {test.name: said(judge_of(loaded, test, options).judge(runner)) for test in entry.tests}


def under_watch(command: list[str]) -> dict[str, Any]:
    """Return exit code, seconds and peak memory of a command."""
    watched = [sys.executable, str(HERE / "peak.py"), *command]
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}  # the same package here and there
    done = subprocess.run(watched, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    used: dict[str, Any] = json.loads(done.stdout)
    return used


def measure_memory(entry: Entry, lines: Lines) -> None:
    """Run the command line once and keep its peak memory. Raises RunError."""
    cell = "compact/inputs"
    if entry.name not in MEMORY_MODELS or lines.has("memory", entry.name, cell, entry.sha256):
        return
    if importlib.util.find_spec("onnx_lowrank.cli") is None:
        raise RunError("memory: there is no onnx_lowrank.cli yet")
    out = lines.folder / "runs" / f"{entry.name}-cli.onnx"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    used = under_watch([sys.executable, "-m", "onnx_lowrank.cli", *cli_arguments(entry, lines, out)])
    if used["exit"] not in (0, 3):
        raise RunError(f"memory: the command line ended with exit code {used['exit']} (its words are above)")
    shown = f"{_command(entry, CELLS[0], lines)} --quiet"
    lines.add("memory", entry.name, cell, entry.sha256, {**used, "command": shown})
    print(f"{entry.name}: memory done: {used['peak_bytes'] / 1e6:,.0f} MB", flush=True)


def cli_arguments(entry: Entry, lines: Lines, out: Path) -> list[str]:
    """Return the arguments of the run whose memory is measured."""
    test = ["--test", str(entry.main_test.path)] if entry.main_test else []
    return [
        "optimize", str(entry.model), "-o", str(out), "--data", str(entry.calibration.path),
        "--validation", str(entry.validation.path), *test, "--metric", entry.metric, "--algorithm", "compact",
        "--observed", "--max-drop", f"{MAX_DROP:g}", "--threads", str(lines.setting.threads),
        "--seed", str(lines.setting.seed), "--quiet",
    ]  # fmt: skip
