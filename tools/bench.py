"""Measure the zoo and write RESULTS.md.

    python -m models minilm --out zoo/minilm      # and so on, see models/README.md
    python tools/bench.py --zoo zoo
    python tools/bench.py --zoo zoo --part scaling    # no zoo model, and only where it is asked for: half an hour
    python tools/bench.py --zoo zoo --part trust      # likewise, on the demo: it writes OUT/trust.md
    python tools/bench.py --zoo zoo --quick           # a trial of every classifier's part: two minutes

Every measurement is a JSON line in OUT/*.jsonl, keyed by model, cell, seed, tool version and the model's hash; one that
is there is not run again, so an interrupted run goes on where it stopped. RESULTS.md is made of these lines alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import (
    ablation,
    cost,
    curves,
    floor,
    goals,
    latency,
    methods,
    paper,
    pareto,
    peers,
    plots,
    prediction,
    quantize,
    scaling,
    tolerance,
    trust,
)
from benchmarks.accuracy_plot import PLOT as ACCURACY
from benchmarks.accuracy_plot import draw_accuracy
from benchmarks.lines import Lines, Setting
from benchmarks.paper_table import CLASSIFIERS
from benchmarks.prediction_table import PLOT
from benchmarks.tables import document
from benchmarks.trust_table import page
from benchmarks.zoo import ROOT, read_entry

from models.fetch import RecipeError
from onnx_lowrank.errors import LowRankError

MODELS = ("crepe", "minilm", "ppocr", "efficientnet")
PARTS = {"memory": goals.measure_memory, "goals": goals.measure, "curves": curves.measure}
PARTS |= {"cost": cost.measure, "ablation": ablation.measure, "prediction": prediction.measure}
PARTS |= {"pareto": pareto.measure, "floor": floor.measure, "latency": latency.measure}
PARTS |= {"quantize": quantize.measure, "threads": quantize.measure_threads}
QUICK_MODEL = "text"
"""A trial of the whole: the smallest classifier."""
PARTS |= {tolerance.PART: tolerance.measure}
PAPER = {"paper": paper.measure, "methods": methods.measure, "peers": peers.measure}
PAPER |= {tolerance.PART: tolerance.measure}
"""What is measured of the classifiers, whose labels are class numbers."""
DRAWN = {scaling.PART: (scaling.MODEL, scaling.measure), trust.PART: (trust.MODEL, trust.measure)}
DRAWN |= {tolerance.PART: (tolerance.DEMO, tolerance.measure_demo)}
PAGES = {trust.PART: page, tolerance.PART: tolerance.page}
"""Parts with a page of their own, OUT/<part>.md: RESULTS.md has nothing of them."""
"""What is measured whatever the zoo holds, and of which model: drawn ones, the demo."""


def main() -> int:
    """Run what is asked for and missing, then write the tables."""
    given = _arguments()
    zoo, out = given.zoo.resolve(), given.out.resolve()
    results = (given.results or (given.out if given.quick else ROOT) / "RESULTS.md").resolve()
    os.chdir(ROOT)
    lines = Lines(out, Setting(given.seed, given.threads, given.quick))
    failures = [] if given.tables_only else _run(zoo, given.models, given.part, lines)
    _write(lines, results, out, only_pages=set(given.part) <= set(PAGES))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def _write(lines: Lines, results: Path, out: Path, *, only_pages: bool) -> None:
    """Write the parts' own pages beside their raw lines, and RESULTS.md of all other parts."""
    out.mkdir(parents=True, exist_ok=True)
    for part, made in PAGES.items():
        if text := made(lines.all(), lines.setting):
            (out / f"{part}.md").write_text(text, encoding="utf-8")
            print(f"written: {out / part}.md")
    if only_pages:
        return
    rest = [line for line in lines.all() if line["part"] not in PAGES]
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(document(rest, (*MODELS, *CLASSIFIERS), lines.setting), encoding="utf-8")
    print(f"written: {results}")
    _draw(lines, results.parent)


def _draw(lines: Lines, folder: Path) -> None:
    """Draw what RESULTS.md and the README show; where that cannot be done, say so: the tables do not depend on it."""
    found = {(line["part"], line["model"], line["cell"]): line["data"] for line in lines.all()}
    draws = {
        folder / PLOT: partial(plots.draw, found, MODELS),
        folder / ACCURACY: partial(draw_accuracy, found, CLASSIFIERS),
    }
    try:
        for path, draw in draws.items():
            if draw(path):
                print(f"written: {path}")
    except plots.PlotError as error:
        print(error, file=sys.stderr)


def _run(zoo: Path, models: list[str], parts: list[str], lines: Lines) -> list[str]:
    """Measure; a part that fails does not keep the others from running."""
    failures = []
    for part in (part for part in DRAWN if part in parts):
        model, measure = DRAWN[part]
        failures += _measured(model, part, partial(measure, lines))
    for name in models:
        measures = PAPER if name in CLASSIFIERS else PARTS
        chosen = [part for part in measures if part in parts]
        if not chosen:
            continue
        try:
            entry = read_entry(zoo, name)
        except FileNotFoundError as error:
            failures.append(f"{name}: {error}")
            continue
        for part in chosen:
            failures += _measured(name, part, partial(measures[part], entry, lines))
    return failures


def _measured(name: str, part: str, measure: Callable[[], None]) -> list[str]:
    """Measure, tell how long it took, and return what failed."""
    start = time.perf_counter()
    failures = []
    try:
        measure()
    except (LowRankError, RecipeError, goals.RunError, cost.CostError) as error:
        failures.append(f"{name}, {part}: {error}")
        print(failures[-1], file=sys.stderr, flush=True)
    print(f"{name}: {part} took {time.perf_counter() - start:.0f} s", flush=True)
    return failures


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="directory with a folder for each model")
    parser.add_argument("--out", type=Path, help="raw lines and models (tools/results; with --quick bench-out)")
    parser.add_argument("--results", type=Path, help="file to write (RESULTS.md; with --quick OUT/RESULTS.md)")
    parser.add_argument(
        "--models",
        type=_some_of((*MODELS, *CLASSIFIERS)),
        help=f"of {','.join((*MODELS, *CLASSIFIERS))}; without it those that ZOO holds, with --quick {QUICK_MODEL}",
    )
    parser.add_argument(
        "--part",
        type=_some_of((*PARTS, *PAPER, *DRAWN)),
        help=f"of {','.join((*PARTS, *PAPER, *DRAWN))}; without it all, but {','.join(DRAWN)} only with --quick",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 (all cores)")
    parser.add_argument("--quick", action="store_true", help="one size, one goal, 64 samples a set: a trial")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, write the tables again")
    given = parser.parse_args()
    if given.part is None:
        given.part = [*dict.fromkeys((*PARTS, *PAPER, *(DRAWN if given.quick else [])))]
    if given.models is None:
        there = [name for name in (*MODELS, *CLASSIFIERS) if (given.zoo / name).is_dir()]
        given.models = [QUICK_MODEL] if given.quick else there
        if not (given.models or given.tables_only or set(given.part) <= set(DRAWN)):
            parser.error(
                f"{given.zoo} holds no model: python -m models NAME --out {given.zoo}/NAME, see models/README.md"
            )
    given.out = given.out or ROOT / ("bench-out" if given.quick else "tools/results")
    return given


def _some_of(allowed: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a parser of a comma-separated choice."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(allowed)}")
        return chosen

    return parse


if __name__ == "__main__":
    sys.exit(main())
