"""Measure the zoo: raw lines, and a page a part that is made of them.

    python -m models minilm --out zoo/minilm          # and so on, see models/README.md
    python tools/bench.py --zoo zoo
    python tools/bench.py --zoo zoo --part scaling    # costly parts run only where they are asked for
    python tools/bench.py --zoo zoo --quick           # a trial of every part, not to be quoted

Every measurement is a JSON line in OUT/<part>.jsonl, keyed by model, cell, seed, tool version and the model's hash; one
that is there is not run again, so an interrupted run goes on where it stopped. OUT/<part>.md, with its figures, is made
of these lines alone. RESULTS.md is not written: it stands as it was made from earlier lines.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    again,
    beyond,
    bits,
    cost,
    floor,
    forms,
    goals,
    latency,
    methods,
    paper,
    peers,
    prediction,
    quantize,
    scaling,
    shelved,
    tolerance,
    trust,
    width,
    workers,
)
from benchmarks.lines import Lines, Setting
from benchmarks.parts import Part, page, run
from benchmarks.plots import PlotError
from benchmarks.workbench import Workbench
from benchmarks.zoo import MODELS, ROOT, read_entry

PARTS: tuple[Part, ...] = (
    *(goals.PART, methods.PART, *cost.PARTS, prediction.PART, floor.PART, latency.PART, *quantize.PARTS),
    *(forms.PART, shelved.PART, width.PART, beyond.PART, bits.PART),
    *(paper.PART, peers.PART, tolerance.PART, scaling.PART, again.PART, workers.PART, trust.PART),
)


def main() -> int:
    """Run what is asked for and missing, then write the pages."""
    given = _arguments()
    zoo, out = given.zoo.resolve(), given.out.resolve()
    os.chdir(ROOT)
    lines = Lines(out, Setting(given.seed, given.threads, given.quick))
    parts = [part for part in PARTS if part.name in given.part]
    failures = [] if given.tables_only else measure(zoo, given.models, parts, lines, given.cells)
    write(parts, lines)
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def measure(
    zoo: Path, models: Sequence[str], parts: Sequence[Part], lines: Lines, cells: str = "*"
) -> list[str]:  # fmt: skip
    """Measure, on one workbench a model; a part that fails does not keep the others from running."""
    failures = []
    for part in parts:
        for make in part.own.values():
            failures += run(part, Workbench(make(), lines), cells)
        for entry in part.found(zoo) if part.found is not None else ():
            failures += run(part, Workbench(entry, lines), cells)
    for name in models:
        if chosen := [part for part in parts if name in part.models]:
            try:
                bench = Workbench(read_entry(zoo, name), lines)
            except FileNotFoundError as error:
                failures.append(f"{name}: {error}")
                continue
            for part in chosen:
                failures += run(part, bench, cells)
    return failures


def write(parts: Sequence[Part], lines: Lines) -> None:
    """Write the pages beside the raw lines, and draw their figures; where that cannot be done, say so."""
    for part in parts:
        if not (text := page(part, lines.all(), lines.setting)):
            models = ", ".join(part.models) or "models of its own"
            print(f"{part.name}: no page, nothing is measured; it is for {models}")
            continue
        lines.folder.mkdir(parents=True, exist_ok=True)
        written = [lines.folder / f"{part.name}.md"]
        written[0].write_text(text, encoding="utf-8")
        try:
            written += [path for name, draw in part.figures.items() if draw(lines.all(), path := lines.folder / name)]
        except PlotError as error:
            print(error, file=sys.stderr)
        for path in written:
            print(f"written: {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, costly = [part.name for part in PARTS], [part.name for part in PARTS if part.costly]
    parser.add_argument("--zoo", type=Path, required=True, help="directory with a folder for each model")
    parser.add_argument("--out", type=Path, help="lines, pages and models (tools/results; with --quick bench-out)")
    parser.add_argument("--models", type=_listed, help=f"of {','.join(MODELS)}; without it those in ZOO")
    parser.add_argument("--part", type=_listed, help=f"of {','.join(names)}; without it all but {','.join(costly)}")
    parser.add_argument("--cells", default="*", help="a pattern: only cells whose name matches it, such as '*: time'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 (all cores)")
    parser.add_argument("--quick", action="store_true", help="one size, one goal, 64 samples a set: a trial")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing, write the pages again")
    given = parser.parse_args()
    if given.part is None:
        given.part = [part.name for part in PARTS if given.quick or given.tables_only or not part.costly]
    there = [name for name in MODELS if (given.zoo / name).is_dir()]
    for unknown in (*(set(given.models or ()) - {*MODELS}), *(set(given.part) - {*names})):
        parser.error(f"{unknown!r} is not one of {', '.join((*MODELS, *names))}")
    if not (given.models or there or given.tables_only or all(p.own or p.found for p in PARTS if p.name in given.part)):
        parser.error(f"{given.zoo} holds no model: python -m models NAME --out {given.zoo}/NAME, see models/README.md")
    given.models = given.models or there
    given.out = given.out or ROOT / ("bench-out" if given.quick else "tools/results")
    return given


def _listed(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
