"""A time budget, or a signal: the best that is certified by then is saved, tested and reported."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import onnx_lowrank as lr
from onnx_lowrank.demo import MODEL, demo_samples
from onnx_lowrank.pipeline.search import Search
from onnx_lowrank.progress import Ending
from tests.builders import classifier_folder
from tests.unit.cli.cli_runs import run

FAST = ("--threads", 1, "--max-drop", 0.2, "--rank-multiple", 1)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    return classifier_folder(tmp_path)


def optimize(folder: Path, *more: object) -> tuple[Result, dict[str, Any]]:
    data = ("--data", folder / "cal.npz", "--validation", folder / "val.npz")
    files = ("-o", folder / "out.onnx", "--report", folder / "report.json", "--force")
    result = run("optimize", folder / "model.onnx", *data, *files, *FAST, *more)
    path = folder / "report.json"
    return result, json.loads(path.read_text("utf-8")) if path.exists() else {}


def at_trial(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Do something after every plan that was validated."""
    finishing = Search._finishing

    def told(self: Search, seconds: float) -> float:
        act(self)
        return finishing(self, seconds)

    monkeypatch.setattr(Search, "_finishing", told)


def test_the_search_ends_with_what_has_passed(folder: Path, monkeypatch: pytest.MonkeyPatch):
    whole, _ = optimize(folder)
    assert whole.exit_code == 0, whole.output
    everything = json.loads((folder / "report.json").read_text("utf-8"))
    assert len(everything["trials"]) > 1

    def over(search: Search) -> None:
        search.session.clock.ending._budget = 1e-9

    at_trial(monkeypatch, over)
    result, report = optimize(folder, "--time-budget", "1h")
    assert result.exit_code == 0, result.output
    assert len(report["trials"]) == 1
    assert report["verdict"]["word"] == "certified"
    assert any("was used up, after 1 plan: with more time" in note for note in report["notes"])
    assert report["trials"][0]["plan"] == everything["trials"][0]["plan"]
    assert (folder / "out.onnx").exists()


def test_nothing_is_saved_where_nothing_has_passed_by_then(folder: Path):
    result, report = optimize(folder, "--time-budget", "0.000001s")
    assert result.exit_code == 3
    assert "before anything had passed" in report["reason"]
    assert not (folder / "out.onnx").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of its own")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_saves_the_best_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    trial = Search.trial

    def second(self: Search, plan: lr.Plan, progress: Any) -> lr.Trial:
        if self.session.clock.ending.found:
            signal.raise_signal(number)
        return trial(self, plan, progress)

    monkeypatch.setattr(Search, "trial", second)
    result, report = optimize(folder)
    assert result.exit_code == 0, result.output
    assert len(report["trials"]) == 1
    assert any("stopped when asked to, after 1 plan" in note for note in report["notes"])
    assert (folder / "out.onnx").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of its own")
def test_two_signals_stop_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    trial = Search.trial

    def second(self: Search, plan: lr.Plan, progress: Any) -> lr.Trial:
        if self.session.clock.ending.found:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return trial(self, plan, progress)

    monkeypatch.setattr(Search, "trial", second)
    result, _ = optimize(folder)
    assert result.exit_code == 130
    assert "stopped; nothing was written" in result.output
    assert not (folder / "out.onnx").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of its own")
def test_a_signal_before_anything_has_passed_stops(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Search, "trial", lambda *_: signal.raise_signal(signal.SIGINT))
    result, _ = optimize(folder)
    assert result.exit_code == 130
    assert not (folder / "out.onnx").exists()


def test_number_formats_that_take_too_long_are_left_out(monkeypatch: pytest.MonkeyPatch):
    """The rest of the budget finds a plan without them."""
    sets = demo_samples()
    data = lr.DataSources(data=sets["calibration"], validation=sets["validation"])
    options = lr.Options(include=("7.weight",), rank_multiple=64, time_budget=3600).for_goal("bytes")
    within = Ending.within
    monkeypatch.setattr(Ending, "within", lambda self, share, make: within(self, 1e-9, make))
    session = lr.Session.of(MODEL, data, options)
    result = lr.meet_goal(session, lr.Compact(resource="bytes", gate=lr.Gate(max_drop=0.03)))
    assert result
    assert any(note.startswith("number formats are left out: 60% of the time budget") for note in result.notes)
    assert {choice.option.form.storage for choice in result.plan.choices} == {"own"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("45", 45), ("1.5h", 5400), ("2m5", 125)]
)
def test_times_as_they_are_written(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, seconds: float):
    seen = []
    monkeypatch.setattr(lr.Options, "__post_init__", lambda self: seen.append(self.time_budget))
    optimize(folder, "--time-budget", value)
    assert seconds in seen


@pytest.mark.parametrize("value", ["soon", "", "10x", "m", "1m1h", "-5", "0"])
def test_times_that_cannot_be_are_one_line(folder: Path, value: str):
    result, _ = optimize(folder, "--time-budget", value)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not (folder / "out.onnx").exists()
