"""`python goal_run.py ORDER.json ANSWER.json`: one call of `optimize` in a process of its own."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import GoalError, LowRankError
from onnx_lowrank.options import Compact, Gate, Goal, Lossless, Options, Runtime
from onnx_lowrank.pipeline import DataSources, optimize
from onnx_lowrank.results.parts import Size
from onnx_lowrank.results.result import Result
from onnx_lowrank.types import Interval, Verdict


def main() -> int:
    """Carry out the order and write the answer; exit like the command line does."""
    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        answer = _answer(optimize(order["model"], _sources(order), _goal(order), _options(order), output=order["out"]))
    except LowRankError as error:
        outcome = "unreachable" if isinstance(error, GoalError) else "error"
        answer = {"outcome": outcome, "reason": str(error)}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")
    return {"saved": 0, "nothing": 3}.get(answer["outcome"], 1)


def _sources(order: dict[str, Any]) -> DataSources:
    test = order["test"]
    return DataSources(
        data=Path(order["data"]), validation=Path(order["validation"]), test=Path(test) if test else None
    )


def _goal(order: dict[str, Any]) -> Goal:
    if order["algorithm"] == "compact":
        return Compact(gate=Gate(max_drop=order["max_drop"], observed=True))
    return Lossless(keep=order["keep"])


def _options(order: dict[str, Any]) -> Options:
    return Options(
        sensitivity=order["sensitivity"],
        metric=order["metric"],
        seed=order["seed"],
        runtime=Runtime(threads=order["threads"]),
    )


def _answer(result: Result) -> dict[str, Any]:
    return {
        "outcome": "saved" if result else "nothing",
        "reason": result.reason,
        "before": _size(result.before),
        "after": _size(result.after),
        "kept_factorable": _kept(result),
        "kept_by_operator": _kept_by_operator(result),
        "factored": len(result.plan.factored) if result.plan else 0,
        "validation": _said(result.verdict),
        "test": _said(result.test),
        "latency": _triple(result.latency.ratio) if result.latency else None,
        "milliseconds": [result.latency.first_ms, result.latency.second_ms] if result.latency else None,
        "validations": len(result.trials),
        "steps": dict(result.findings.seconds),
        "notes": list(result.notes),
    }


def _kept(result: Result) -> float:
    dense = sum(curve.dense.cost.parameters for curve in result.curves)
    return result.plan.cost.parameters / dense if result.plan else 1.0


def _kept_by_operator(result: Result) -> dict[str, float]:
    """Return the share of the factorable parameters that each operator keeps."""
    operators = {site.id: site.op for site in result.sites}
    dense: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for curve in result.curves:
        dense[operators[curve.site]] += curve.dense.cost.parameters
    for choice in result.plan.choices if result.plan else ():
        kept[operators[choice.site]] += choice.option.cost.parameters
    return {name: kept[name] / count if result.plan else 1.0 for name, count in dense.items()}


def _size(size: Size) -> dict[str, float]:
    return {"parameters": size.parameters, "bytes": size.bytes, "macs": size.macs}


def _triple(interval: Interval) -> list[float]:
    return [interval.estimate, interval.low, interval.high]


def _said(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "metric": verdict.metric,
        "n": verdict.samples,
        "higher_is_better": verdict.higher_is_better,
        "original": _triple(verdict.original),
        "candidate": _triple(verdict.candidate),
        "drop": _triple(verdict.drop),
    }


if __name__ == "__main__":
    sys.exit(main())
