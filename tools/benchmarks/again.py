"""Part "again": what a second goal costs where the first one has filled the cache, and runs that are killed and go on.

Every run is a process of its own, from start to exit. A run that is killed has been given the cache of an empty folder,
and goes on in it; its plan is held against that of a run without a cache.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lines import PACKAGE, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.process import optimized
from benchmarks.wording import number, table
from benchmarks.workbench import Workbench, WorkbenchError
from benchmarks.zoo import MODELS, ROOT

FIRST: tuple[str, ...] = ("--max-drop", "0.01")
SECOND: dict[str, tuple[str, ...]] = {
    "the same again": FIRST,
    "another drop": ("--max-drop", "0.02"),
    "a share of the parameters": ("--keep", "0.7", "--max-drop", "0.02"),
}
KILLED = ("text",)
"""Models whose runs are killed: small ones, as each is run twice as often."""
KILLS, QUICK_KILLS = 20, 2
ABOUT = (
    "`onnx-lowrank optimize --cache-dir DIR`, a process a run, on one thread. *First*: `--max-drop 0.01` in an empty"
    " folder. The others follow in the same folder. *Without*: the first goal without a cache. *Kept*: what the folder"
    " holds after the first run."
)
ABOUT_KILLS = (
    "Killed (SIGKILL) at a time drawn evenly over the run's length, and run again with the folder that it had left."
)


def _second(bench: Workbench) -> Line:
    """Return the seconds of a first goal, of others from its cache, and of the first without one."""
    with tempfile.TemporaryDirectory(dir=bench.runs) as folder:
        place, runs = Path(folder), {}
        without, _ = _run(bench, place, FIRST, None)
        first, told = _run(bench, place, FIRST, place / "cache")
        kept = sum(path.stat().st_size for path in (place / "cache").iterdir())
        for name, goal in SECOND.items():
            runs[name] = _run(bench, place, goal, place / "cache")[0]
        return {"without": without, "first": first, "kept": kept, "runs": runs, "steps": told["seconds"]}


def _run(bench: Workbench, place: Path, goal: Sequence[str], cache: Path | None) -> tuple[float, dict[str, Any]]:
    """Return the seconds of a run, and its report. Raises WorkbenchError where it ends in an error."""
    used, told = optimized(_arguments(bench, place, goal, cache), place / "report.json")
    if used["exit"] not in (0, 3) or told is None:  # nothing acceptable is an answer
        raise WorkbenchError(f"{' '.join(goal)}: exit {used['exit']}: {used['last']}")
    return float(used["seconds"]), told


def _arguments(bench: Workbench, place: Path, goal: Sequence[str], cache: Path | None) -> list[Any]:
    entry, options = bench.entry, bench.options
    sets = ["--data", entry.calibration.path, "--validation", entry.validation.path, "--metric", entry.metric]
    run = ["--threads", options.runtime.threads, "--seed", options.seed, "-o", place / "out.onnx", "--force"]
    kept = [] if cache is None else ["--cache-dir", cache, "--cache-limit", "60GB"]
    return [entry.model, *sets, *goal, *run, *kept]


def _killed(bench: Workbench, kills: int) -> Line:
    """Return how runs that were killed went on: when, from how much, in what time, to which plan."""
    with tempfile.TemporaryDirectory(dir=bench.runs) as folder:
        place, cache = Path(folder), Path(folder) / "cache"
        whole, told = _run(bench, place, FIRST, None)
        rng, rows = random.Random(bench.options.seed), []
        for _ in range(kills):
            shutil.rmtree(cache, ignore_errors=True)
            after = rng.uniform(0, whole)
            _stopped(_arguments(bench, place, FIRST, cache), after)
            found = len(list(cache.iterdir())) if cache.is_dir() else 0
            seconds, again = _run(bench, place, FIRST, cache)
            rows.append({"after": after, "results": found, "seconds": seconds, "same": again["plan"] == told["plan"]})
        return {"whole": whole, "kills": rows}


def _stopped(arguments: Sequence[Any], after: float) -> None:
    """Run the command line, and kill it after so many seconds."""
    paths = filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    call = [sys.executable, "-m", "onnx_lowrank.cli", "optimize", *map(str, arguments), "--quiet"]
    process = subprocess.Popen(call, cwd=ROOT, env=environment)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _cells(model: str, quick: bool) -> list[Cell]:
    cells = [Cell("second", _second)]
    if model in KILLED:
        cells.append(Cell("kills", partial(_killed, kills=QUICK_KILLS if quick else KILLS)))
    return cells


def _section(model: str, cells: dict[str, Line]) -> list[str]:
    text: list[str] = []
    if "second" in cells:
        data = cells["second"]
        rows = [("without", f"{data['without']:,.0f}", number(data["without"] / data["first"], 2)),
                ("first", f"{data['first']:,.0f}", "1")]  # fmt: skip
        rows += [(name, f"{s:,.0f}", number(s / data["first"], 2)) for name, s in data["runs"].items()]
        text += [*table(("goal", "seconds", "of the first"), rows), f"Kept: {data['kept'] / 1e6:,.0f} MB.", ""]
    if "kills" in cells:
        data = cells["kills"]
        same = sum(row["same"] for row in data["kills"])
        rows = [
            (f"{row['after']:.0f}", str(row["results"]), f"{row['seconds']:.0f}", "yes" if row["same"] else "NO")
            for row in sorted(data["kills"], key=lambda row: row["after"])
        ]
        heads = ("killed after, s", "results kept", "went on for, s", "same plan")
        said = f"The whole run takes {data['whole']:.0f} s; {same} of {len(rows)} came to the same plan."
        text += [f"{ABOUT_KILLS} {said}", "", *table(heads, rows)]
    return text


PART = Part("again", "Again, from the cache", _cells, sections("again", _section, ABOUT), MODELS, costly=True)
