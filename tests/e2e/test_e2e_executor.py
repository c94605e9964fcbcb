"""--executor: workers collect, and the plan is the one that a single process finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnx_lowrank.pipeline import search
from onnx_lowrank.validation.on_workers import OnWorkers
from tests.builders import classifier_folder
from tests.unit.cli.cli_runs import optimize


def smaller(folder: Path, *more: object) -> dict[str, Any]:
    out = ("-o", folder / "out.onnx", "--report", folder / "report.json", "--force", "--minimize", "bytes")
    result = optimize(folder, *out, *more)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def test_workers_find_the_same_plan_and_what_they_collect_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = classifier_folder(tmp_path)
    alone, run = smaller(folder), list[OnWorkers]()

    def on_workers(*given: Any) -> OnWorkers:
        run.append(OnWorkers(*given))
        return run[-1]

    monkeypatch.setattr(search, "OnWorkers", on_workers)
    workers = ("--executor", "local:2", "--cache-dir", tmp_path / "cache")
    together = smaller(folder, *workers)
    forms = [[(choice["weight"], choice["option"]) for choice in each["plan"]["choices"]] for each in (alone, together)]
    for one, other in zip(*forms, strict=True):
        assert one[0] == other[0]
        for name in ("scheme", "ranks"):
            assert one[1][name] == other[1][name]
    assert len(run) == len(together["trials"]) == len(alone["trials"])
    for one, other in zip(alone["trials"], together["trials"], strict=True):
        assert other["verdict"]["drop"] == pytest.approx(one["verdict"]["drop"], rel=1e-6)
    written = (folder / "out.onnx").read_bytes()
    again = smaller(folder, *workers[2:])
    assert "from the cache: calibrating" in again["seconds"]
    assert (folder / "out.onnx").read_bytes() == written


def test_an_executor_that_is_none_is_a_usage_error(tmp_path: Path):
    result = optimize(classifier_folder(tmp_path), "-o", tmp_path / "out.onnx", "--executor", "local:none")
    assert result.exit_code == 2
    assert "unknown executor 'local:none': give local:N" in result.output
    assert not (tmp_path / "out.onnx").exists()
