"""Part "peers": the tools a user would pick, on the same model and samples, and whether they and ours bear each other.

Every row is a file that is read back, scored on the test labels and timed against the original. Nothing but the gate of
*ours* sees validation labels. Virtual environments of the peers: OUT/venvs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line
from benchmarks.made import INT4, ORIGINAL, OURS, PEER_SAMPLES, SLIM, make, path_of
from benchmarks.made import ROWS as MADE
from benchmarks.parts import Cell, Part, sections
from benchmarks.scores import BATCH, Scores, compared
from benchmarks.wording import NONE, megabytes, number, paired, percent, table, threads_text, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import CLASSIFIERS
from onnx_lowrank import ModelError, RuntimeProblem

ELSEWHERE = (INT4, *(name for name, row in MADE.items() if "weights" in name or row.certified or row.bits != (32,)))
"""What stands in parts "quantize" and "bits": a tool, and rows."""
ROWS = tuple(name for name, row in MADE.items() if name not in ELSEWHERE and row.tool not in ELSEWHERE)
QUICK = ("int8 static", SLIM, OURS, "onnxslim of ours")
SIZES = (1, 16)
"""Samples a call that latency is measured with."""
CHECKED, SECONDS = 512, 3.0
"""Validation samples that outputs are compared on."""
ABOUT = (
    "Every row is a file on disk, from the same model and calibration samples. *int8 static* and *int8 dynamic* are"
    " onnxruntime's with the operators and ranges that `--then` gives it (static: the weights' operators, Relu and"
    f" Clip, one scale a channel, {wb.CALIBRATED} calibration samples; dynamic: no Conv); *stock* is `quantize_static`"
    " and"
    " `quantize_dynamic` by their own defaults, static after their `quant_pre_process`. NNCF is `nncf.quantize`, with"
    f" its transformer scheme where the model has a softmax; it and stock static see at most {PEER_SAMPLES} of the"
    " calibration samples (NNCF's default number). onnx-shrink-ray quantises weights alone. *Ours* is compact with a"
    " drop of {allowed} allowed on validation (*drop 0*: none), as small or as fast as possible, and it alone is gated"
    " by validation labels. {n:,} test samples, paired 95 % intervals of the change: of top-1 exact (with how many"
    " samples were won and lost), of the loss in nats. Latency against the original in turns, {threads}, with {sizes}"
    " samples of one shape a call, in onnxruntime on the processor, {pairs} pairs or more. *s*: seconds from the row's"
    " source to its file, collection or the tool's start included."
)
ABOUT_KEPT = (
    "*Off*: the largest difference of any output on {checked} validation samples, as a share of the largest output;"
    " *differ*: test samples right in one of the two alone. *ours of onnxslim* starts from other nodes and may choose"
    " another plan, so it is held to the gate, not to the outputs."
)
WORDS = {"absent": "not installed", "nothing": "none", "failed": "failed"}


def measure(bench: Workbench, name: str) -> Line:
    """Return a row; whatever keeps a file from being made, loaded or run is its reason."""
    about, path = make(bench, name), path_of(bench, name)
    if about["outcome"] != "made":
        return about
    try:
        runner, scores = bench.runner(path), bench.once(_scored, name)
        about |= compared(bench.once(_scored, ORIGINAL), scores)
        about["latency"] = {str(size): latency(bench, runner, path, size) for size in SIZES}
        like = MADE[name].like
        if like and path_of(bench, like).is_file():
            checked = wb.some(bench.samples(bench.entry.validation), CHECKED).feeds
            pair = compared(bench.once(_scored, like), scores)
            off = farthest(bench.runner(path_of(bench, like)), runner, checked)
            kept = {"like": like, "off": off, "checked": len(checked), "flips": pair["flips"], "top1": pair["top1"][:2]}
            about["kept"] = kept
    except (ModelError, RuntimeProblem) as error:
        return {**about, "outcome": "failed", "reason": f"does not run: {error}"}
    return about


def _absent(data: Line) -> bool:
    return bool(data["outcome"] == "absent")


def _scored(bench: Workbench, name: str) -> Scores:
    runner, test = bench.runner(path_of(bench, name)), bench.samples(bench.entry.tests[0])
    return Scores.of(runner, test, wb.batch_size(runner, test.feeds, BATCH))


def latency(bench: Workbench, runner: wb.Runner, path: Path, size: int, *, threads: int | None = None) -> Line:
    """Return ratio and milliseconds at `size` samples a call, or the reason why there are none.

    threads: None: those of the run.
    """
    inputs = [*bench.original.inputs, *runner.inputs]
    fixed = [spec.name for spec in inputs if spec.shape and spec.shape[0] == 1]
    if size > 1 and fixed:
        return {"reason": f"the batch axis of {fixed[0]} is fixed"}
    feeds = list(together(bench.samples(bench.entry.validation).feeds, size))
    if not feeds:
        return {"reason": f"no {size} samples have one shape"}
    try:
        timed = bench.timed(path, feeds, threads=threads, seconds=SECONDS)
    except RuntimeProblem as error:
        return {"reason": str(error)}
    return {"reason": "", "ratio": timed.pop("latency"), **timed}


def together(feeds: Iterable[wb.Feed], size: int) -> Iterator[wb.Feed]:
    """Yield feeds of `size` samples of equal shapes each, wherever they stand; what is left over is left out."""
    waiting: dict[tuple[Any, ...], list[wb.Feed]] = {}
    for feed in feeds:
        layout = tuple((name, array.shape, array.dtype.str) for name, array in sorted(feed.items()))
        waiting.setdefault(layout, []).append(feed)
        if len(waiting[layout]) == size:
            yield wb.join(waiting.pop(layout))


def farthest(one: wb.Runs, other: wb.Runs, feeds: Iterable[wb.Feed]) -> float:
    """Return the largest difference between two models' outputs over the first's largest output; NaN of a NaN."""
    apart, size = [0.0], [0.0]
    for feed in feeds:
        first, second = one.run(feed), other.run(feed)
        apart += [float(np.abs(array - second[name]).max(initial=0.0)) for name, array in first.items()]
        size += [float(np.abs(array).max(initial=0.0)) for array in first.values()]
    most, largest = float(np.max(apart)), float(np.max(size))
    return most / largest if largest else most


def section(model: str, cells: Cells) -> list[str]:
    """Return a classifier's tables, with the reasons of what failed and the versions of the tools."""
    there = {name: cells[name] for name in ROWS if name in cells}
    made = {name: data for name, data in there.items() if data["outcome"] == "made"}
    text: list[str] = []
    if made:
        first = next(iter(made.values()))
        timed = [each["pairs"] for data in made.values() for each in data["latency"].values() if not each["reason"]]
        known = {
            "allowed": number(first["allowed"]), "n": first["n"], "threads": threads_text(first["threads"]),
            "sizes": " and ".join(map(str, SIZES)), "pairs": min(timed, default=0),
        }  # fmt: skip
        top, loss = (number(first[key][0], 4) for key in ("top1", "loss"))
        file = f"{megabytes(first['original_bytes'])} (100 %)"
        rows = [["original", file, top, NONE, loss, *["1"] * len(SIZES), NONE]]
        rows += [_row(name, data) for name, data in there.items()]
        heads = ("", "file, MB", "top-1", "won, lost", "loss", *(f"latency ×, {size} a call" for size in SIZES), "s")
        text += [ABOUT.format(**known), "", *table(heads, rows)]
        if kept := {name: data["kept"] for name, data in made.items() if "kept" in data}:
            text += [ABOUT_KEPT.format(checked=next(iter(kept.values()))["checked"]), ""]
            rows = [[name, k["like"], f"{k['off']:.1e}", str(sum(k["flips"])), _tops(k)] for name, k in kept.items()]
            text += table(("", "against", "off", "differ", "top-1: its, and this one's"), rows)
    notes = [*_notes(there)]
    return [*text, *notes, *([""] if notes else [])]


def _tops(kept: Line) -> str:
    return ", ".join(number(value, 4) for value in kept["top1"])


def _row(name: str, data: Line) -> list[str]:
    if data["outcome"] != "made":
        return [name, WORDS[data["outcome"]], *[NONE] * (len(SIZES) + 4)]
    won, lost = data["flips"]
    size = f"{megabytes(data['bytes'])} ({percent(data['bytes'] / data['original_bytes'])})"
    times = [data["latency"][str(each)] for each in SIZES]
    ratios = [NONE if each["reason"] else with_interval(each["ratio"], 2) for each in times]
    return [name, size, paired(data["top1"]), f"{won}, {lost}", paired(data["loss"]), *ratios, f"{data['seconds']:.1f}"]


def _notes(there: Cells) -> Iterator[str]:
    yield from (f"- {name}: {data['reason']}" for name, data in there.items() if data["outcome"] != "made")
    untimed: dict[str, list[str]] = {}
    for name, data in there.items():
        for size, each in data.get("latency", {}).items():
            if each["reason"]:
                untimed.setdefault(f"{size} a call: {each['reason']}", []).append(name)
    yield from (f"- not timed with {why} ({', '.join(names)})" for why, names in untimed.items())
    used = [", ".join(f"{k} {v}" for k, v in data["versions"].items()) for data in there.values() if "versions" in data]
    if used:
        yield f"- each in an environment of its own: {'; '.join(dict.fromkeys(used))}"


PART = Part(
    "peers", "Tools a user would pick",
    lambda model, quick: [Cell(name, partial(measure, name=name), _absent) for name in (QUICK if quick else ROWS)],
    sections("peers", section), CLASSIFIERS,
)  # fmt: skip
