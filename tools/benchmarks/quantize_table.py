"""int8 alone, factors alone, and both, side by side."""

from __future__ import annotations

from benchmarks.ablation_table import Found
from benchmarks.lines import Line
from benchmarks.quantize import CELLS, PART
from benchmarks.wording import NONE, changed, megabytes, number, percent, table, with_interval

ABOUT = (
    "int8 is onnxruntime's, as `--then quantize` and `--then quantize-dynamic` make it: static with ranges from the"
    " calibration samples, dynamic with ranges found at run time (MatMul, Gemm and embeddings only). *Ours* is compact"
    " with a drop of {allowed} allowed on validation; behind it, the gate is applied to both together. int8 alone is"
    " gated by nothing. Latency against the original, one sample a call."
)


def quantize(found: Found, model: str) -> list[str]:
    """Return the section of one model."""
    there = [(cell.name, found[PART, model, cell.name]) for cell in CELLS if (PART, model, cell.name) in found]
    if not there:
        return []
    made = [data for _, data in there if data["outcome"] == "made"]
    tests = list(dict.fromkeys(name for data in made for name in data["tests"]))
    first = there[0][1]
    rows = [_original(first, made, tests), *(_row(name, data, tests) for name, data in there)]
    reasons = [f"- {name}: {data['reason']}" for name, data in there if data["outcome"] != "made"]
    text = ["### int8, and both", "", ABOUT.format(allowed=number(first["allowed"])), ""]
    text += table(("", "file, MB", "validation", *tests, "latency ×"), rows)
    return [*text, *([*reasons, ""] if reasons else [])]


def _original(first: Line, made: list[Line], tests: list[str]) -> tuple[str, ...]:
    bases = [made[0]["validation"], *(made[0]["tests"][name] for name in tests)] if made else [None]
    values = [number(base["original"][0]) if base else NONE for base in bases]
    return ("original", megabytes(first["original_bytes"]), *values, "1")


def _row(name: str, data: Line, tests: list[str]) -> tuple[str, ...]:
    if data["outcome"] != "made":
        return (name, *[NONE] * (len(tests) + 3))
    size = f"{megabytes(data['bytes'])} ({percent(data['bytes'] / data['original_bytes'])})"
    shown = (changed(data["validation"]), *(changed(data["tests"][test]) for test in tests))
    return (name, size, *shown, with_interval(data["latency"], 2))
