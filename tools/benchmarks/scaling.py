"""Part "scaling": what one run of the command line costs by size of the model and by number of calibration samples.

The models are drawn (`synthetic.py`), each as large as asked for, so the zoo is not needed.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import scipy.stats

from benchmarks import synthetic
from benchmarks.lines import Line, Setting, cells_of
from benchmarks.parts import Cell, Part
from benchmarks.process import optimized
from benchmarks.wording import NONE, Triple, megabytes, percent, table, with_interval
from benchmarks.workbench import LEVEL, Workbench, WorkbenchError
from benchmarks.zoo import Entry, stand_in

MODEL = "synthetic"
WIDTHS, COUNTS = (104, 176, 320, 576, 1024, 1440), (128, 256, 512, 1024, 2048, 4096)
"""About 0.5, 1.5, 5, 16, 50 and 100 M parameters, on SAMPLES; and calibration samples, of the model of WIDTH."""
SAMPLES, WIDTH, VALIDATION, KEEP = 512, 320, 512, 0.5
QUICK_WIDTHS, QUICK_COUNTS, QUICK_WIDTH, QUICK_SAMPLES = WIDTHS[:2], COUNTS[:2], WIDTHS[0], COUNTS[1]
LARGER = 4
"""Points of the larger end: the fewest whose interval has more than one degree of freedom."""
ABOUT = (
    f"`onnx-lowrank optimize --algorithm lossless --keep {KEEP:g} --max-drop 1 --metric agreement` on networks that"
    f" were drawn, not trained: transformer encoders of {synthetic.BLOCKS} blocks and {synthetic.TOKENS} tokens a"
    " sample, made larger by their width alone. A run is one process, from start to exit; memory is its largest"
    " resident set (`ru_maxrss`); collection holds about 1 GB at once (`--memory`), and runs the samples again for what"
    " is beyond it. Factoring a matrix takes the third power of its side, which is the 1.5th power of"
    " the parameters."
)
ABOUT_FIT = (
    "Exponent e of cost = a · nᵉ, by least squares in logs, with the t-interval of the slope (95 %, one run a point)."
    " Start-up, imports, the timing at the end (3 s by its design) and what does not depend on the number of samples"
    f" flatten the small end: the {LARGER} largest alone say more of what lies beyond. No constant is fitted beside the"
    " power: with so few points it could hardly be told from the exponent."
)
QUANTITIES = (("seconds", "seconds"), ("peak memory", "peak_bytes"))
STEP = 0.05
"""Steps below this share of a run are not named."""


def runs_by(what: str, quick: bool) -> list[tuple[int, int]]:
    """Return (width, calibration samples) of the runs that differ in "parameters" or in "samples", smallest first."""
    if what == "parameters":
        return [(width, QUICK_SAMPLES if quick else SAMPLES) for width in (QUICK_WIDTHS if quick else WIDTHS)]
    return [(QUICK_WIDTH if quick else WIDTH, count) for count in (QUICK_COUNTS if quick else COUNTS)]


def cells(model: str, quick: bool) -> list[Cell]:
    """Return a cell a run, cheapest first; one that both lists have is run once."""
    runs = {*runs_by("parameters", quick), *runs_by("samples", quick)}
    order = sorted(runs, key=lambda run: synthetic.parameters(run[0]) * run[1])
    return [Cell(f"{width}/{count}", partial(_measure, width=width, count=count)) for width, count in order]


def entry() -> Entry:
    return stand_in(MODEL, hashlib.sha256(f"{synthetic.DIGEST} {VALIDATION} {KEEP}".encode()).hexdigest())


def _measure(bench: Workbench, width: int, count: int) -> Line:
    seed = bench.options.seed
    with tempfile.TemporaryDirectory(dir=bench.runs) as folder:
        names = ("model.onnx", "data.npz", "validation.npz", "out.onnx", "report.json")
        model, data, validation, out, report = (Path(folder) / name for name in names)
        onnx.save(synthetic.network(width, seed), model)
        for part, (path, size) in enumerate(((data, count), (validation, VALIDATION))):
            np.savez(path, input=synthetic.samples(size, seed, part))
        goal = ["--metric", "agreement", "--algorithm", "lossless", "--keep", f"{KEEP:g}", "--max-drop", "1"]
        given = [model, "-o", out, "--data", data, "--validation", validation, *goal]
        used, told = optimized([*given, "--threads", bench.options.runtime.threads, "--seed", seed], report)
        if used["exit"] or told is None:
            raise WorkbenchError(f"{width}/{count}: exit {used['exit']}: {used['last']}")
        return {
            **used, "parameters": told["before"]["parameters"], "bytes": model.stat().st_size, "samples": count,
            "validation": VALIDATION, "sites": len(told["sites"]), "steps": told["seconds"],
            "kept": told["after"]["parameters"] / told["before"]["parameters"],
            "agreement": told["verdict"]["candidate"]["estimate"], "saved_bytes": out.stat().st_size,
        }  # fmt: skip


def body(lines: Sequence[Line], setting: Setting) -> list[str]:
    """Return the runs by parameters and by samples, and the power with which each grows."""
    cells, quick = cells_of(lines, "scaling").get(MODEL, {}), setting.quick
    names = {what: [f"{width}/{count}" for width, count in runs_by(what, quick)] for what in ("parameters", "samples")}
    runs = {what: [cells[name] for name in each if name in cells] for what, each in names.items()}
    text, fits = [ABOUT, ""], []
    for by, there in runs.items():
        first = ["parameters, M", "calibration samples"][:: 1 if by == "parameters" else -1]
        heads = [*first, "file, MB", "weights", "seconds", "peak, MB", "kept", "agreement", "most of the time"]
        text += table(heads, [_row(by, cell) for cell in there]) if there else []
        for label, key in QUANTITIES:
            points = sorted((float(cell[by]), float(cell[key])) for cell in there)
            found = (exponent(points), exponent(points[-LARGER:] if len(points) > LARGER else []))
            fits.append((f"{label} by {by}", *(NONE if e is None else with_interval(e, 2) for e in found)))
    return [*text, ABOUT_FIT, "", *table(("e", "all", f"the {LARGER} largest"), fits)] if cells else []


def _row(by: str, cell: Line) -> list[str]:
    what = [f"{cell['parameters'] / 1e6:.2f}", f"{cell['samples']:,}"][:: 1 if by == "parameters" else -1]
    shares = sorted(((seconds / cell["seconds"], name) for name, seconds in cell["steps"].items()), reverse=True)
    steps = ", ".join(f"{name} {percent(share, 0)}" for share, name in shares[:3] if share >= STEP) or NONE
    times = [f"{cell['seconds']:,.1f}", f"{cell['peak_bytes'] / 1e6:,.0f}"]
    worth = [percent(cell["kept"]), f"{cell['agreement']:.3f}"]
    return [*what, megabytes(cell["bytes"]), str(cell["sites"]), *times, *worth, steps]


def exponent(points: Sequence[tuple[float, float]]) -> Triple | None:
    """Return e of y = a · xᵉ and the ends of its t-interval; None for fewer than three points (x, y)."""
    if len(points) < 3:
        return None
    xs, ys = np.log(np.asarray(points, dtype=float)).T
    xs, ys = xs - xs.mean(), ys - ys.mean()
    slope, freedom = float(xs @ ys / (xs @ xs)), len(points) - 2
    error = math.sqrt(float(np.square(ys - slope * xs).sum()) / freedom / float(xs @ xs))
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return slope, slope - half, slope + half


PART = Part("scaling", "What it costs", cells, body, own={MODEL: entry}, costly=True)
