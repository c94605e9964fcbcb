"""RESULTS.md is made of raw lines: the cells, and the marks beside the targets."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MODELS = ("crepe", "minilm", "ppocr", "efficientnet")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


def said(original: float, candidate: float, drop: list[float], *, higher: bool = True) -> dict[str, Any]:
    return {
        "metric": "metrics.py:score",
        "n": 50,
        "higher_is_better": higher,
        "original": [original, 0.5, 0.75],
        "candidate": [candidate, 0.5, 0.75],
        "drop": drop,
    }


def crepe(kept: float) -> dict[str, Any]:
    """What a goal run leaves behind."""
    return {
        "outcome": "saved",
        "reason": "passed",
        "exit": 0,
        "before": {"parameters": 1000, "bytes": 4_000_000, "macs": 10.0},
        "after": {"parameters": int(1000 * kept), "bytes": int(4_000_000 * kept), "macs": 10 * kept},
        "kept_factorable": kept,
        "factored": 6,
        "validation": said(0.966, 0.963, [0.003, -0.001, 0.007]),
        "latency": [0.52, 0.49, 0.55],
        "milliseconds": [10.0, 5.2],
        "validations": 9,
        "tests": {"test": said(0.956, 0.951, [0.005, -0.002, 0.012])},
        "command": "onnx-lowrank optimize zoo/crepe/model.onnx",
        "seconds": 61.4,
        "peak_bytes": 1_234_000_000,
    }


def now() -> str:
    """The state of the package's source, as the tool sees it."""
    return str(importlib.import_module("benchmarks.lines").source_digest())


def raw(part: str, model: str, cell: str, data: dict[str, Any], source: str = "") -> dict[str, Any]:
    machine = {"cpu": "a processor", "cores": "2", "system": "Linux", "numpy": "2.0"}
    circumstances = {"threads": 0, "source": source or now(), "machine": machine, "load": 1.5}
    return {"part": part, "model": model, "cell": cell, **circumstances, "data": data}


def rows_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def document(bench: Any, lines: list[dict[str, Any]], *, quick: bool = False) -> str:
    setting = bench("benchmarks.lines").Setting(0, 0, quick)
    text: str = bench("benchmarks.tables").document(lines, MODELS, setting)
    return text


def test_number_is_short(bench: Any) -> None:
    number = bench("benchmarks.wording").number
    shown = [number(value) for value in (0.6564, -0.0154, -0.0001, 0.0, 1.0, -12.3456, float("inf"), float("nan"))]
    assert shown == [".656", "−.015", ".000", ".000", "1.000", "−12.346", "∞", "?"]


@pytest.mark.parametrize(("higher", "change"), [(True, "−.015 [−.031, .001]"), (False, ".015 [−.001, .031]")])
def test_change_is_candidate_less_original(bench: Any, higher: bool, change: str) -> None:
    candidate = 0.641 if higher else 0.671
    cell = bench("benchmarks.wording").both(said(0.656, candidate, [0.015, -0.001, 0.031], higher=higher))
    assert cell == f".656 → {candidate:.3f} ({change})".replace("0.", ".")


def test_nothing_measured_leaves_every_target_open(bench: Any) -> None:
    text = document(bench, [])
    assert "Nothing was measured yet." in text
    assert all(" open " in row for row in rows_of(text, "| crepe") + rows_of(text, "| minilm"))


@pytest.mark.parametrize(("kept", "mark"), [(0.25, "met"), (0.75, "**MISSED**")])
def test_goal_and_its_target(bench: Any, kept: float, mark: str) -> None:
    text = document(bench, [raw("goals", "crepe", "compact/inputs", crepe(kept))])
    target = next(row for row in rows_of(text, "| crepe: compact") if "half" in row)
    assert f"| {mark} |" in target
    assert "latency × .52 [.49, .55]" in target
    assert rows_of(text, "| test |") == ["| test | .956 → .951 (−.005 [−.012, .002]) |"]
    assert rows_of(text, "| file, MB") == [f"| file, MB | 4.0 → {4 * kept:.1f} ({100 * kept:.1f} %) |"]


def test_a_clear_no_is_met_for_plain_svd(bench: Any) -> None:
    refused = {
        "outcome": "nothing", "reason": "none of 9 plans passed", "exit": 3, "tests": {}, "validations": 9,
        "command": "onnx-lowrank optimize", "seconds": 8.0, "peak_bytes": 5e8,
    }  # fmt: skip
    text = document(bench, [raw("goals", "ppocr", "compact/weights", refused)])
    assert "| met | exit 3: none of 9 plans passed |" in text
    assert rows_of(text, "| outcome") == ["| outcome | nothing acceptable (exit 3) |"]
    assert "- compact, plain: none of 9 plans passed" in text


def test_memory_over_the_target_fails(bench: Any) -> None:
    data = {"peak_bytes": 2.1e9, "seconds": 50.0, "exit": 0, "command": "onnx-lowrank optimize"}
    text = document(bench, [raw("memory", "minilm", "compact/inputs", data)])
    assert "| minilm | 2,100 | 2,000 | **FAIL** | 50 | 0 |" in text
    assert "| **MISSED** | 2,100 MB |" in text


def test_a_level_that_was_not_run_is_a_dash(bench: Any) -> None:
    about = {
        "sets": {"test": {"metric": "m.py:lee", "n": 50, "note": "", "original": [0.656, 0.5, 0.8], "recipe": 0.656}},
        "shared": 0, "counts": {"test": 50}, "sites": 36, "factorable": 50, "parameters": 100, "bytes": 400,
    }  # fmt: skip
    cut = {
        "reachable": True, "kept_factorable": 0.8, "kept_model": 0.9, "factored": 30, "predicted": 0.01, "unit": "nats",
        "tests": {"test": said(0.656, 0.641, [0.015, -0.001, 0.031])},
    }  # fmt: skip
    lines = [raw("curves", "minilm", "baseline", about), raw("curves", "minilm", "inputs/global/0.8", cut)]
    text = document(bench, lines)
    assert "| 90 % (95 %) | 80 % (90 %) | 60 % (80 %) | 40 % (70 %) |" in text
    assert rows_of(text, "| whitened, global")[0] == "| whitened, global | — | .641 (−.015 [−.031, .001]) | — | — |"
    assert "whitened, global .641" in next(row for row in rows_of(text, "| minilm: Lee") if "| met |" in row)


def test_cells_are_kept_and_found_again(bench: Any, tmp_path: Path) -> None:
    lines = bench("benchmarks.lines")
    first = lines.Lines(tmp_path, lines.Setting(0, 0, False))
    first.add("goals", "crepe", "compact/inputs", "abc", {"outcome": "nothing"})
    again = lines.Lines(tmp_path, lines.Setting(0, 0, False))
    assert again.has("goals", "crepe", "compact/inputs", "abc")
    assert not again.has("goals", "crepe", "compact/inputs", "another model")
    assert not lines.Lines(tmp_path, lines.Setting(1, 0, False)).all()
    assert not lines.Lines(tmp_path, lines.Setting(0, 0, True)).all()
    assert json.loads((tmp_path / "goals.jsonl").read_text(encoding="utf-8"))["data"] == {"outcome": "nothing"}


@pytest.mark.parametrize("old", [True, False])
def test_what_an_earlier_state_of_the_code_measured_is_marked(bench: Any, old: bool) -> None:
    text = document(bench, [raw("goals", "crepe", "compact/inputs", crepe(0.25), "an older state" if old else "")])
    target = next(row for row in rows_of(text, "| crepe: compact") if "half" in row)
    assert target.endswith("† |") is old
    assert ("to be run again: 1 of 1." in text) is old
    assert ("All cells were measured by the code as it is." in text) is not old
