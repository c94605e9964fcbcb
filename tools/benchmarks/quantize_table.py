"""int8 alone, factors alone (for size, for speed), and both, side by side; and which scheme won where."""

from __future__ import annotations

from benchmarks.ablation_table import Inventory
from benchmarks.goals import MAX_DROP
from benchmarks.latency_table import threads_said
from benchmarks.lines import Line
from benchmarks.quantize import CELLS, PART, STRICT
from benchmarks.wording import NONE, changed, megabytes, number, percent, table, with_interval

ABOUT = (
    "{factorable} of the parameters are in factorable weights. *Ours* is compact with a drop of {allowed} allowed on"
    " validation: as small as possible, or as fast as possible (`--minimize latency`). int8 is as `--then` makes it:"
    " static by onnxruntime, with ranges from the calibration samples; dynamic by onnxruntime, with ranges found at run"
    " time (MatMul, Gemm and embeddings only); *weights*, under float arithmetic. Behind factors the gate is applied to"
    " both together (*strict*: {strict} allowed); int8 alone is gated by nothing. Latency against the original: one"
    " sample a call, {threads}."
)


def quantize(inventory: Inventory, model: str) -> list[str]:
    """Return the section of one model."""
    there = [(cell.name, inventory[PART, model, cell.name]) for cell in CELLS if (PART, model, cell.name) in inventory]
    if not there:
        return []
    made = [data for _, data in there if data["outcome"] == "made"]
    tests = list(dict.fromkeys(name for data in made for name in data["tests"]))
    first = there[0][1]
    rows = [_original(first, made, tests), *(_row(name, data, tests) for name, data in there)]
    reasons = [f"- {name}: {data['reason']}" for name, data in there if data["outcome"] != "made"]
    known = {
        "allowed": number(MAX_DROP),
        "strict": number(STRICT),
        "threads": threads_said(first["threads"]),
        "factorable": percent(first["factorable"]),
    }
    text = ["### Factors, int8, and both", "", ABOUT.format(**known), ""]
    text += table(("", "file, MB", "parameters", "MACs", "validation", *tests, "latency ×"), rows)
    text += [*reasons, ""] if reasons else []
    won = [(name, data["schemes"]) for name, data in there if data.get("schemes")]
    kinds = sorted({kind for _, schemes in won for kind in schemes})
    counts = [(kind, *(str(schemes.get(kind, 0) or NONE) for _, schemes in won)) for kind in kinds]
    return [*text, *(table(("weights that became", *(name for name, _ in won)), counts) if won else [])]


def _original(first: Line, made: list[Line], tests: list[str]) -> tuple[str, ...]:
    bases = [made[0]["validation"], *(made[0]["tests"][name] for name in tests)] if made else [None]
    values = [number(base["original"][0]) if base else NONE for base in bases]
    return ("original", megabytes(first["original_bytes"]), "100 %", "100 %", *values, "1")


def _row(name: str, data: Line, tests: list[str]) -> tuple[str, ...]:
    if data["outcome"] != "made":
        return (name, *[NONE] * (len(tests) + 5))
    size = f"{megabytes(data['bytes'])} ({percent(data['bytes'] / data['original_bytes'])})"
    shown = (changed(data["validation"]), *(changed(data["tests"][test]) for test in tests))
    shares = (percent(data["parameters"]), percent(data["macs"]))
    return (name, size, *shares, *shown, with_interval(data["latency"], 2))
