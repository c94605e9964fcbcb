"""Part "bits": ranks and number formats chosen together, beside int8 and int4 of the whole and factors alone.

All rows are files of the same model from the same calibration samples, judged by the same rule on the same validation
samples. Ours alone chooses by those, so the test sets stand beside. A row counts at a drop where it is certified to
lose less than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from benchmarks import workbench as wb
from benchmarks.bits_prediction import measure_prediction, prediction_section
from benchmarks.lines import Cells, Line, Setting, cells_of
from benchmarks.made import DROPS, ROWS, make, path_of
from benchmarks.parts import Cell, Part
from benchmarks.peers import SIZES, WORDS, latency
from benchmarks.wording import NONE, changed, megabytes, number, percent, table, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import CLASSIFIERS, TASKS
from onnx_lowrank import Gate, ModelError, RuntimeProblem

PEERS = ("int8 static", "int8 dynamic", "int8 weights", "NNCF", "int4 blocks")
INT8 = PEERS[:4]
FACTORS, STACKED, TOGETHER, FAST = "factors", "factors, then int8", "ranks and bits", "ranks and integers"
OURS = {kind: [f"{kind}, {drop:g}" for drop in DROPS] for kind in (FACTORS, STACKED, TOGETHER, FAST)}
THREADS = (1, 2)
PREDICTED, TIME = "prediction", "{}: time"
"""Cells beside the rows; times are measured when all files are there, so that nothing else runs meanwhile."""
DIVERGED = 2_000
"""Validation samples that outputs are compared on, at most."""
OBSERVED = "ranks and bits, drop 0"
SIZED = {"minilm": "ranks and bits, 15 %"}
"""Rows of some models: the most accurate of a size."""
NAMES = (*PEERS, *(name for names in OURS.values() for name in names), OBSERVED, *dict.fromkeys(SIZED.values()))
ABOUT = (
    "*Certified*: at 95 % confidence the drop of the metric on validation is below that, by the same test for every row"
    " (the original against itself has nothing to lose). *KL*: mean divergence of the outputs from the original's, in"
    " nats, on {diverged:,} validation samples at most; relative squared distance where outputs are no class scores."
    " *Latency* against the original, in turns, at {sizes} samples a call, on one and two threads. *s*: from the model"
    " to the file, collection included. int8 static and dynamic are onnxruntime's with the settings of `--then`, *int8"
    " weights* those of `--then quantize-weights`; *int4 blocks* is onnxruntime's MatMulNBitsQuantizer, blocks of 32,"
    " MatMul and Gather. *Ranks and bits* are for the fewest bytes (*drop 0*: with none observed, not certified;"
    " *15 %*: the most accurate of that size, whatever its drop), *ranks and integers* for the least time of a sample"
    " on one thread."
)
ABOUT_BEST = (
    "Of the rows that are certified at a drop: the smallest file of int8, of all peers, of ours with ranks and bits"
    " chosen together, and ours over theirs; and the fastest of all peers, ours for time and ours over theirs, one"
    " sample a call on one thread. Nobody takes a file that is slower than the original: there it is the original's,"
    " 1.00."
)
HEADS = ("", "file, MB", "certified", "drop", "KL")


def _measure(bench: Workbench, name: str) -> Line:
    about, path = make(bench, name), path_of(bench, name)
    if about["outcome"] != "made":
        return about
    try:
        runner = bench.runner(path)
        verdict = bench.session.judge(Gate(max_drop=max(DROPS))).whole.judge(runner)
        about |= {"bound": verdict.bound.value, "validation": wb.said(verdict)}
        about["tests"] = bench.judged(path, bench.entry.tests)
        compared = wb.some(bench.samples(bench.entry.validation), DIVERGED)
        about["kl"] = float(bench.divergences(path, compared, "compared").mean())
    except (ModelError, RuntimeProblem) as error:
        return {**about, "outcome": "failed", "reason": f"does not run: {error}"}
    return about


def _timed(bench: Workbench, name: str) -> Line:
    """Return a row's times at every size and number of threads; none where its file was not made or is gone."""
    made = bench.lines.get("bits", bench.entry.name, name, bench.entry.sha256)
    path = path_of(bench, name)
    if made is None or made["outcome"] != "made" or not path.is_file():
        return {}
    runner = bench.runner(path)
    return {
        f"{size}/{threads}": latency(bench, runner, path, size, threads=threads)
        for size in SIZES
        for threads in THREADS
    }


def _body(lines: Sequence[Line], setting: Setting) -> list[str]:
    every, cells = cells_of(lines, "bits"), rows_by_model(lines)
    sizes = " and ".join(map(str, SIZES))
    text = [ABOUT.format(diverged=DIVERGED, sizes=sizes), "", "## The smallest and the fastest", "", ABOUT_BEST, ""]
    heads = ("model", "drop", "int8", "best peer", "ours", "over int8", "over best", "fastest peer", "ours", "over it")
    rows = [best(model, there, drop) for model, there in cells.items() for drop in DROPS]
    text += table(heads, rows)
    for model, there in cells.items():
        text += [f"## {model}", "", *_section(there)]
        text += prediction_section(every[model][PREDICTED]) if PREDICTED in every[model] else []
    return text


def rows_by_model(lines: Sequence[Line]) -> dict[str, Cells]:
    """Return model -> its rows with their times, of models that have any; the README's table is made of them, too."""
    cells = {model: _with_times(there) for model, there in cells_of(lines, "bits").items()}
    return {model: there for model, there in cells.items() if there}


def _with_times(there: Cells) -> Cells:
    """Return the rows, each with its times: {} where it has none."""
    return {name: there[name] | {"latency": there.get(TIME.format(name), {})} for name in NAMES if name in there}


def best(model: str, there: Cells, drop: float) -> list[str]:
    """Return a model's row of the comparison at a drop."""
    holding = {name: d for name, d in there.items() if d["outcome"] == "made" and d["bound"] < drop}
    together = [name for name in (*OURS[TOGETHER], *SIZED.values()) if name in holding]
    peers = [n for n in PEERS if n in holding]
    groups = [[n for n in INT8 if n in holding], peers, together]
    sizes = [min((holding[n]["bytes"] / holding[n]["original_bytes"] for n in names), default=None) for names in groups]
    ours = sizes[2]
    ratios = [number(ours / each, 2) if ours and each else NONE for each in sizes[:2]]
    ahead = [*together, *(name for name in OURS[FAST] if name in holding)]
    fast = [min((min(t, 1.0) for n in names if (t := _time(holding[n]))), default=None) for names in (peers, ahead)]
    fast.append(fast[1] / fast[0] if fast[0] and fast[1] else None)
    shown = [NONE if each is None else percent(each) for each in sizes]
    return [model, number(drop), *shown, *ratios, *(NONE if t is None else number(t, 2) for t in fast)]


def _time(data: Line) -> float | None:
    each = data["latency"].get(f"1/{THREADS[0]}")
    return float(each["ratio"][0]) if each and not each["reason"] else None


def _section(there: Cells) -> list[str]:
    made = [data for data in there.values() if data["outcome"] == "made"]
    tests = list(dict.fromkeys(test for data in made for test in data["tests"]))
    times = [f"{size} × {threads}" for size in SIZES for threads in THREADS]
    heads = (*HEADS, *tests, *(f"time {each}" for each in times), "s")
    rows = [_row(name, there[name], tests) for name in NAMES if name in there]
    first = next(iter(there.values()))
    rows = [["original", megabytes(first["original_bytes"]), *[NONE] * (len(heads) - 2)], *rows]
    reasons = [f"- {name}: {d['reason']}" for name, d in there.items() if d["outcome"] != "made"]
    return [*table(heads, rows), *reasons, *([""] if reasons else [])]


def _row(name: str, data: Line, tests: Iterable[str]) -> list[str]:
    tests = list(tests)
    if data["outcome"] != "made":
        return [name, WORDS[data["outcome"]], *[NONE] * (len(HEADS) - 2 + len(tests) + len(SIZES) * len(THREADS) + 1)]
    size = f"{megabytes(data['bytes'])} ({percent(data['bytes'] / data['original_bytes'])})"
    times = [data["latency"].get(f"{size}/{threads}") for size in SIZES for threads in THREADS]
    return [
        name,
        size,
        f"< {number(data['bound'], 4)}",
        changed(data["validation"]),
        f"{data['kl']:.1e}",
        *(changed(data["tests"][test]) if test in data["tests"] else NONE for test in tests),
        *(with_interval(each["ratio"], 2) if each and not each["reason"] else NONE for each in times),
        f"{data['seconds']:.0f}",
    ]


def _cells(model: str, quick: bool) -> list[Cell]:
    everywhere = [name for name in NAMES if name not in SIZED.values() or name == SIZED.get(model)]
    names = (PEERS[2], OURS[TOGETHER][1]) if quick else everywhere
    return [
        *(Cell(name, partial(_measure, name=name), lambda data: data["outcome"] == "absent") for name in names),
        Cell(PREDICTED, partial(measure_prediction, bits=wb.BITS)),
        *(Cell(TIME.format(name), partial(_timed, name=name), lambda data: not data) for name in names),
    ]


PART = Part("bits", "Ranks and bits, chosen together", _cells, _body, (*TASKS, *CLASSIFIERS), costly=True)
assert set(NAMES) <= set(ROWS)
