"""Part "goals": what a user gets, goal by goal, each by one call of the command line: outcome, time and peak memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks import workbench as wb
from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.process import optimized
from benchmarks.wording import NONE, both, megabytes, number, percent, table, with_interval
from benchmarks.workbench import Workbench
from benchmarks.zoo import TASKS

MAX_DROP, KEEP = 0.005, 0.8
KINDS = {"joint": "joint", "inputs": "whitened", "weights": "plain"}
GOALS = {f"compact/{kind}": f"--algorithm compact --max-drop {MAX_DROP:g} --sensitivity {kind}" for kind in KINDS}
GOALS |= {"lossless/joint": f"--algorithm lossless --keep {KEEP:g} --sensitivity joint"}
OUTCOMES = {0: "saved", 1: "unreachable", 3: "nothing"}
"""Exit code -> outcome."""


def _measure(bench: Workbench, name: str) -> Line:
    entry, stem = bench.entry, f"{bench.entry.name}-{name.replace('/', '-')}"
    out, report = bench.runs / f"{stem}.onnx", bench.runs / f"{stem}.json"
    out.unlink(missing_ok=True)
    sets = {"--data": entry.calibration, "--validation": entry.validation, "--test": entry.main_test}
    files = [each for option, chosen in sets.items() if chosen for each in (option, chosen.path)]
    goal = ["--metric", entry.metric, *GOALS[name].split(), "--observed", "--seed", str(bench.options.seed)]
    used, made = optimized([entry.model, *files, *goal, "-o", out, "--threads", bench.options.runtime.threads], report)
    outcome = OUTCOMES.get(used["exit"], "")
    if not outcome or (made is None and outcome != "unreachable") or out.is_file() != (outcome == "saved"):
        raise wb.WorkbenchError(f"{stem}: exit {used['exit']}: {used['last']}")
    shown = " ".join(map(str, [entry.model, *files, *goal])).replace(str(entry.model.parent), f"zoo/{entry.name}")
    about = {"reason": used["last"]} if made is None else _reported(made)
    tests = bench.judged(out, entry.tests) if out.is_file() else {}
    return {"outcome": outcome, **about, **used, "command": f"onnx-lowrank optimize {shown}", "tests": tests}


def _reported(report: Line) -> Line:
    latency, choices = report["latency"], report["plan"]["choices"] if report["plan"] else []
    operators = {site["id"]: site["op"] for site in report["sites"]}
    dense: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for curve in report["sensitivity"]:
        dense[operators[curve["site"]]] += curve["options"][0]["parameters"]
    for choice in choices:
        kept[operators[choice["site"]]] += choice["option"]["cost"]["parameters"]
    return {
        **{name: report[name] for name in ("reason", "before", "after", "notes")}, "steps": report["seconds"],
        "kept_factorable": kept.total() / dense.total() if choices else 1.0,
        "kept_by_operator": {name: kept[name] / count if choices else 1.0 for name, count in dense.items()},
        "factored": sum(choice["option"]["scheme"] != "dense" for choice in choices),
        "validation": _verdict(report["verdict"]), "test": _verdict(report["test"]),
        "latency": _triple(latency["ratio"]) if latency else None,
        "milliseconds": [latency["first_ms"], latency["second_ms"]] if latency else None,
        "validations": len(report["trials"]),
    }  # fmt: skip


def _triple(interval: Line) -> list[float]:
    return [interval[end] for end in ("estimate", "low", "high")]


def _verdict(verdict: Line | None) -> Line | None:
    if verdict is None:
        return None
    ends = {name: _triple(verdict[name]) for name in ("original", "candidate", "drop")}
    return {
        "metric": verdict["metric"],
        "n": verdict["samples"],
        "higher_is_better": verdict["higher_is_better"],
        **ends,
    }


def _section(model: str, cells: Cells) -> list[str]:
    there = {f"{n.split('/')[0]}, {KINDS[n.split('/')[1]]}": cells[n] for n in GOALS if n in cells}
    columns = [*there.values()]
    rows = [[label, *(make(data) for data in columns)] for label, make in _rows(columns)]
    reasons = [f"- {label}: {data['reason']}" for label, data in there.items() if data["outcome"] != "saved"]
    reasons += [""] if reasons else []
    return [*table(["", *there], rows), *reasons, "```sh", *(data["command"] for data in columns), "```", ""]


def _rows(columns: Sequence[Line]) -> list[tuple[str, Callable[[Line], str]]]:
    def saved(make: Callable[[Any], str]) -> Callable[[Line], str]:
        return lambda data: make(data) if data["outcome"] == "saved" else NONE

    def share(what: str) -> Callable[[Line], str]:
        return saved(lambda d: percent(d["after"][what] / d["before"][what]) if d["before"][what] else NONE)

    def files(data: Line) -> str:
        before, after = data["before"]["bytes"], data["after"]["bytes"]
        return f"{megabytes(before)} → {megabytes(after)} ({percent(after / before)})"

    tests = dict.fromkeys(name for data in columns for name in data["tests"])
    return [
        ("outcome", lambda data: {"nothing": "nothing acceptable (exit 3)"}.get(data["outcome"], data["outcome"])),
        ("file, MB", saved(files)),
        ("parameters kept", share("parameters")),
        ("of the factorable", saved(lambda data: percent(data["kept_factorable"]))),
        ("MACs kept", share("macs")),
        ("weights factored", saved(lambda data: str(data["factored"]))),
        ("validation", saved(lambda data: both(data["validation"]))),
        *((name, saved(lambda data, name=name: both(data["tests"][name]))) for name in tests),
        ("latency ×", saved(lambda data: with_interval(data["latency"], 2))),
        ("ms a call", saved(lambda data: " → ".join(number(ms, 1) for ms in data["milliseconds"]))),
        ("validations used", lambda data: str(data.get("validations", NONE))),
        ("seconds", lambda data: f"{data['seconds']:.0f}"),
        ("peak memory, MB", lambda data: f"{data['peak_bytes'] / 1e6:,.0f}"),
    ]


PART = Part(
    "goals", "What the goals deliver",
    lambda model, quick: [Cell(name, partial(_measure, name=name)) for name in [*GOALS][: 1 if quick else None]],
    sections("goals", _section), TASKS,
)  # fmt: skip
