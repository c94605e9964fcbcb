"""Part "quantize": int8 alone, factors alone (for size, for speed), and both; all judged and timed alike.

"ours" is compact with the drop that the goals allow; a stack is gated as a whole, on the same validation samples. No
test set is given to the tool, so none keeps a model from being made. Latency: one sample a call. And part "threads":
the fastest of these models with two threads, where a chain has to share its gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import workbench as wb
from benchmarks.goals import MAX_DROP
from benchmarks.lines import Cells, Line
from benchmarks.made import FASTEST, OURS, STRICT, make, path_of
from benchmarks.parts import Cell, Part, one_table, sections
from benchmarks.wording import NONE, changed, megabytes, number, percent, table, threads_text, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import TASKS

THREADS, SECONDS = 2, 20.0
INT8, STACKS = ("int8 static", "int8 dynamic", "int8 weights"), ("static", "dynamic", "weights", "weights, strict")
ROWS = (*INT8, OURS, FASTEST, *(f"ours + int8 {kind}" for kind in STACKS))
QUICK = (INT8[0], OURS, "ours + int8 static")
ABOUT = (
    "{factorable} of the parameters are in factorable weights. *Ours* is compact with a drop of {allowed} allowed on"
    " validation: as small as possible, or as fast as possible (`--minimize latency`). int8 is as `--then` makes it:"
    " static by onnxruntime, with ranges from the calibration samples; dynamic by onnxruntime, with ranges found at run"
    " time (MatMul, Gemm and embeddings only); *weights*, under float arithmetic. Behind factors the gate is applied to"
    " both together (*strict*: {strict} allowed); int8 alone is gated by nothing. Latency against the original: one"
    " sample a call, {threads}."
)


def _measure(bench: Workbench, name: str) -> Line:
    about = {**make(bench, name), "factorable": wb.factorable(bench.session) / bench.session.inventory.parameters}
    if about["outcome"] != "made":
        return about
    tests = bench.judged(path_of(bench, name), [bench.entry.validation, *bench.entry.tests])
    validation = tests.pop(bench.entry.validation.name)
    return {**about, "validation": validation, "tests": tests, **bench.timed(path_of(bench, name))}


def _measure_threads(bench: Workbench) -> Line:
    path = path_of(bench, FASTEST)
    if not path.is_file() and (why := make(bench, FASTEST)["reason"]):
        raise wb.WorkbenchError(why)
    return {**bench.timed(path, threads=THREADS, seconds=SECONDS), "threads": THREADS}


def _section(model: str, cells: Cells) -> list[str]:
    there = {name: cells[name] for name in ROWS if name in cells}
    first = next(iter(there.values()))
    made = [data for data in there.values() if data["outcome"] == "made"]
    tests = list(dict.fromkeys(name for data in made for name in data["tests"]))
    bases = [made[0]["validation"], *(made[0]["tests"][name] for name in tests)] if made else [None]
    values = [number(base["original"][0]) if base else NONE for base in bases]
    rows = [["original", megabytes(first["original_bytes"]), "100 %", "100 %", *values, "1"]]
    rows += [_row(name, data, tests) for name, data in there.items()]
    known = {"allowed": number(MAX_DROP), "strict": number(STRICT), "threads": threads_text(first["threads"])}
    text = [ABOUT.format(**known, factorable=percent(first["factorable"])), ""]
    text += table(("", "file, MB", "parameters", "MACs", "validation", *tests, "latency ×"), rows)
    reasons = [f"- {name}: {data['reason']}" for name, data in there.items() if data["outcome"] != "made"]
    won = {name: data["schemes"] for name, data in there.items() if data.get("schemes")}
    kinds = sorted({kind for schemes in won.values() for kind in schemes})
    counts = [(kind, *(str(schemes.get(kind, 0) or NONE) for schemes in won.values())) for kind in kinds]
    return [*text, *reasons, *([""] if reasons else []), *(table(("weights that became", *won), counts) if won else [])]


def _row(name: str, data: Line, tests: Sequence[str]) -> list[str]:
    if data["outcome"] != "made":
        return [name, *[NONE] * (len(tests) + 5)]
    size = f"{megabytes(data['bytes'])} ({percent(data['bytes'] / data['original_bytes'])})"
    shown = [changed(data["validation"]), *(changed(data["tests"][test]) for test in tests)]
    return [name, size, percent(data["parameters"]), percent(data["macs"]), *shown, with_interval(data["latency"], 2)]


def _threads_row(data: Line) -> str:
    first, second = data["milliseconds"]
    return f"{number(first, 2)} | {number(second, 2)} | {with_interval(data['latency'])} | {data['pairs']}"


PARTS = (
    Part(
        "quantize", "Factors, int8, and both",
        lambda model, quick: [Cell(name, partial(_measure, name=name)) for name in (QUICK if quick else ROWS)],
        sections("quantize", _section), TASKS,
    ),
    Part(
        "threads", "The fastest models with two threads",
        lambda model, quick: [] if quick else [Cell(FASTEST, _measure_threads)],
        one_table(
            "threads", f"*{FASTEST}* of part quantize, one sample a call.",
            "original, ms | this, ms | latency × | pairs", _threads_row,
        ), TASKS,
    ),
)  # fmt: skip
