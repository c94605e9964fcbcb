"""Part "workers": collection by processes on this machine against one process, and what a shard of samples costs."""

from __future__ import annotations

import json
import math
import pickle
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.cost import REPEATS, passes_of
from benchmarks.lines import Line, Setting, cells_of
from benchmarks.parts import Cell, Part, one_table
from benchmarks.process import watched
from benchmarks.wording import number, percent, table
from benchmarks.workbench import Workbench
from onnx_lowrank import DataSources, Options, Runtime, Session, read

WORKERS, EIGEN = 2, 1024
DECODERS = {"1 B": (16, 2048, 8192, 512), "8 B": (32, 4096, 14336, 1024), "70 B": (80, 8192, 28672, 1024)}
"""Layers, width, inner width, width of keys and values: of decoders on paper."""
SAMPLES, TOKENS, CORES, NETWORK = 4096, 2048, 64, 1.25e9
"""On paper: samples of so many tokens, cores a worker, bytes a second into the process that adds up."""
COUNTS, MEMORIES = (1, 8, 32, 128), (2**30, 2**36, 2**40)
EIGENS = 9
"""Eigendecompositions of a side: three a fold, and of all samples."""
ABOUT = (
    f"Collection over all calibration samples on one thread, and by `--executor local:{WORKERS}` with a thread a"
    f" process, in turns ({REPEATS} pairs), the start of the processes included: *speed-up* is the median ratio. A"
    f" *shard* is {wb.shards.SHARD} samples at one group of weights: its seconds on one thread, sessions open, and what"
    " it sends back (sums, and samples to be scored). The model is sent once to each worker."
)


def _collection(bench: Workbench) -> Line:
    answer, entry = bench.runs / f"{bench.entry.name}-workers.json", bench.entry
    answer.unlink(missing_ok=True)
    used = watched(["-m", "benchmarks.workers", str(entry.model), str(entry.calibration.path), str(answer)])
    if not answer.is_file():
        raise wb.WorkbenchError(f"the run ended with {used['exit']}: {used['last']}")
    return dict(json.loads(answer.read_text(encoding="utf-8")))


def main(model: str, data: str, answer: str) -> None:
    session = Session.of(model, DataSources(data=Path(data)), Options(runtime=Runtime(threads=1)))
    whole = replace(session.split, calibration=read(Path(data), session.loaded.runner.inputs))
    alone = passes_of(session.renewed(split=whole))
    runtime = replace(alone.options.runtime, threads=WORKERS)
    together = replace(alone, options=replace(alone.options, executor=f"local:{WORKERS}", runtime=runtime))
    pairs = [(_seconds(alone), _seconds(together)) for _ in range(REPEATS)]
    found = {"pairs": pairs, "speedup": median(one / other for one, other in pairs), "samples": len(alone.samples)}
    Path(answer).write_text(json.dumps(found | _shard(alone)), encoding="utf-8")


def _seconds(setup: Any) -> float:
    start = time.perf_counter()
    wb.kept_scores([setup], wb.Silent())
    return time.perf_counter() - start


def _shard(setup: Any) -> Line:
    """Return what one shard takes and sends, and what is sent once to a worker."""
    groups = list(setup.groups())
    piece = wb.shards.Piece(tuple(groups[0]), {number: setup.feeds[number] for number in range(wb.shards.SHARD)})
    told = wb.shards.work_of(setup)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        made = wb.shards.made(told.shared, piece, 1)
        seconds.append(time.perf_counter() - start)  # the first opens the sessions
    sides = [(site, side) for site, sides in wb.looked_at(setup.inventory).items() for side in sides]
    widths = {site.id: site for site in setup.inventory.sites}
    return {
        "squares": sum(wb.width_of(widths[site], side) ** 2 for site, side in sides), "macs": setup.observed.macs,
        "eigen": _eigen(),
        "groups": len(groups), "opening": seconds[0] - min(seconds[1:]), "shard": min(seconds[1:]),
        "sent": len(pickle.dumps(made)), "told": len(told.packed()),
    }  # fmt: skip


def _eigen() -> float:
    """Return the seconds of an eigendecomposition of EIGEN dimensions on one thread."""
    drawn = np.random.default_rng(0).normal(size=(EIGEN, EIGEN))
    start = time.perf_counter()
    wb.eigen(drawn @ drawn.T)
    return time.perf_counter() - start


def _row(data: Line) -> str:
    one, other = (median(pair[i] for pair in data["pairs"]) for i in range(2))
    sizes = " | ".join(f"{data[what] / 1e6:,.0f}" for what in ("sent", "told"))
    return (
        f"{data['samples']} | {data['groups']} | {one:.1f} | {other:.1f} | {data['speedup']:.2f} |"
        f" {percent(data['speedup'] / WORKERS)} | {data['shard']:.2f} | {data['opening']:.1f} | {sizes}"
    )


def on_paper(data: Line) -> list[str]:
    """Return what decoders would take, by what a shard of a measured model took: a table, in hours."""
    rows = []
    for name, (layers, width, inner, narrow) in DECODERS.items():
        pairs = [(width, width), (width, narrow), (width, narrow), (width, width), *[(width, inner)] * 3] * layers
        squares = [float(min(pair)) ** 2 for pair in pairs]
        macs = TOKENS * sum(float(one) * other for one, other in pairs)
        shards = len(wb.shards.shards_of(range(SAMPLES)))
        shard = data["shard"] * macs / data["macs"] / CORES * SAMPLES / shards / wb.shards.SHARD
        sent = data["sent"] / data["squares"] * sum(squares)
        fits = EIGENS * data["eigen"] * sum(square**1.5 for square in squares) / EIGEN**3 / CORES
        for memory in MEMORIES:
            groups = sum(wb.BYTES_OF_A_SIDE * square for square in squares) / memory
            groups = min(max(groups, 1.0), float(len(pairs)))
            hours = [
                (max(math.ceil(shards / count) * shard * groups, shards * sent / NETWORK) + fits) / 3600
                for count in COUNTS
            ]
            merging = shards * sent / NETWORK / 3600
            rows.append(
                (name, f"{memory / 2**30:,.0f}", f"{groups:,.0f}", *(hours_text(hour) for hour in hours),
                 hours_text(merging), hours_text(fits / 3600))
            )  # fmt: skip
    heads = (
        "decoder",
        "memory, GiB",
        "passes",
        *(f"{n} worker{'s' * (n > 1)}" for n in COUNTS),
        "adding up",
        "fitting",
    )
    return table(heads, rows)


def hours_text(hours: float) -> str:
    """Return hours with two digits that say something."""
    return f"{hours:,.0f}" if hours >= 10 else number(hours, 1 if hours >= 1 else 2)


def body(lines: Sequence[Line], setting: Setting) -> list[str]:
    """Return the measured table, and what follows from it on paper."""
    text = one_table("workers", ABOUT, HEADS, _row)(lines, setting)
    told = [data for cells in cells_of(lines, "workers").values() for data in cells.values()]
    if told:
        text += ["", "## On paper", "", ABOUT_PAPER, "", *on_paper(told[-1])]
    return text


ABOUT_PAPER = (
    f"Hours that collection takes of decoders that were not run: {SAMPLES:,} samples of {TOKENS:,} tokens, workers of"
    f" {CORES} cores, 10 Gbit/s into the process that adds up. Extrapolated from the last row above: a shard's time by"
    " multiply-accumulates, what it sends and what is kept by the squares of the widths, eigendecompositions by their"
    " cubes, cores as if they were used to the full. *Passes*: all samples run forward and backward once for every"
    " group of weights that fits in the memory. *Adding up*: what all shards send, through that one connection."
)
HEADS = (
    "samples | groups | one process, s | two, s | speed-up | of the ideal | a shard, s | opening, s | it sends, MB |"
    " a worker is told, MB"
)
PART = Part(
    "workers", "Collection by several processes", lambda model, quick: [Cell("collection", _collection)],
    body, ("resnext50", "minilm"), costly=True,
)  # fmt: skip

if __name__ == "__main__":
    main(*sys.argv[1:])
