"""Part "workers": collection by processes on this machine against one process, and what a shard of samples costs."""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import workbench as wb
from benchmarks.cost import REPEATS, passes_of
from benchmarks.lines import Line
from benchmarks.parts import Cell, Part, one_table
from benchmarks.process import watched
from benchmarks.wording import percent
from benchmarks.workbench import Workbench
from onnx_lowrank import DataSources, Options, Runtime, Session, read

WORKERS = 2
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
    return {
        "groups": len(groups), "opening": seconds[0] - min(seconds[1:]), "shard": min(seconds[1:]),
        "sent": len(pickle.dumps(made)), "told": len(told.packed()),
    }  # fmt: skip


def _row(data: Line) -> str:
    one, other = (median(pair[i] for pair in data["pairs"]) for i in range(2))
    sizes = " | ".join(f"{data[what] / 1e6:,.0f}" for what in ("sent", "told"))
    return (
        f"{data['samples']} | {data['groups']} | {one:.1f} | {other:.1f} | {data['speedup']:.2f} |"
        f" {percent(data['speedup'] / WORKERS)} | {data['shard']:.2f} | {data['opening']:.1f} | {sizes}"
    )


HEADS = (
    "samples | groups | one process, s | two, s | speed-up | of the ideal | a shard, s | opening, s | it sends, MB |"
    " a worker is told, MB"
)
PART = Part(
    "workers", "Collection by several processes", lambda model, quick: [Cell("collection", _collection)],
    one_table("workers", ABOUT, HEADS, _row), ("resnext50", "minilm"), costly=True,
)  # fmt: skip

if __name__ == "__main__":
    main(*sys.argv[1:])
