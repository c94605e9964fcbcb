"""What one run costs by size and by samples, and with which power of them it grows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.stats

from benchmarks import synthetic
from benchmarks.lines import Line
from benchmarks.scaling import KEEP, MODEL, PART, by_samples, by_size, cell_name
from benchmarks.target import Inventory
from benchmarks.wording import NONE, Triple, megabytes, percent, table, with_interval

LEVEL = 0.95
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


def scaling(inventory: Inventory, *, quick: bool) -> list[str]:
    """Return the section, nothing where nothing was run."""
    named = (("parameters", by_size(quick)), ("samples", by_samples(quick)))
    lists = {by: [inventory[PART, MODEL, cell_name(*c)] for c in cells if _key(c) in inventory] for by, cells in named}
    if not any(lists.values()):
        return []
    text = ["## What it costs", "", ABOUT, ""]
    for by, cells in lists.items():
        text += _runs(by, cells)
    heads = ("e", "all", f"the {LARGER} largest")
    return [*text, ABOUT_FIT, "", *table(heads, [row for by, cells in lists.items() for row in _fits(by, cells)])]


def _key(cell: tuple[int, int]) -> tuple[str, str, str]:
    return PART, MODEL, cell_name(*cell)


def _runs(by: str, cells: Sequence[Line]) -> list[str]:
    """Return the table of one list, what differs first."""
    if not cells:
        return []
    heads = ["parameters, M", "calibration samples"][:: 1 if by == "parameters" else -1]
    heads += ["file, MB", "weights", "seconds", "peak, MB", "kept", "agreement", "most of the time"]
    return table(heads, [_row(by, cell) for cell in cells])


def _row(by: str, cell: Line) -> list[str]:
    what = [f"{cell['parameters'] / 1e6:.2f}", f"{cell['samples']:,}"][:: 1 if by == "parameters" else -1]
    return [
        *what,
        megabytes(cell["bytes"]),
        str(cell["sites"]),
        f"{cell['seconds']:,.1f}",
        f"{cell['peak_bytes'] / 1e6:,.0f}",
        percent(cell["kept"]),
        f"{cell['agreement']:.3f}",
        _steps(cell),
    ]


def _steps(cell: Line) -> str:
    """Return the largest steps with their shares of the run, at most three."""
    shares = sorted(((seconds / cell["seconds"], name) for name, seconds in cell["steps"].items()), reverse=True)
    return ", ".join(f"{name} {percent(share, 0)}" for share, name in shares[:3] if share >= STEP) or NONE


def _fits(by: str, cells: Sequence[Line]) -> Iterator[tuple[str, str, str]]:
    for label, key in QUANTITIES:
        points = sorted((float(cell[by]), float(cell[key])) for cell in cells)
        larger = points[-LARGER:] if len(points) > LARGER else []
        yield f"{label} by {by}", _said(exponent(points)), _said(exponent(larger))


def _said(found: Triple | None) -> str:
    return NONE if found is None else with_interval(found, 2)


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
