"""Being stopped by Ctrl-C, SIGTERM or SIGHUP: one line that says what was written, and nothing half-made."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import linear, mlp, weight
from cli_runs import run

from onnx_lowrank.cli.interrupts import SIGNALS, stoppable
from onnx_lowrank.graph.model_io import store

BYTES_PER_ACTIVATION = ("--random-data", "--metric", "cosine", "--max-drop", 0.5, "--threads", 1, "--observed")
"""Options with which `optimize` finds something to save here."""
STOPPED = 130


@pytest.fixture
def model(tmp_path: Path) -> Path:
    store(mlp([32, 64, 8], [4, None], 1), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a command does to the handlers, it undoes.

    Signals are heard here and in child processes, also where the suite itself runs in the background or under nohup.
    """
    outside = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in outside.items():
        signal.signal(number, handler)
    assert after == before


def stop_at(monkeypatch: pytest.MonkeyPatch, part: str, name: str, number: int) -> None:
    """Send this process a signal where a function is called."""
    module = importlib.import_module(part)
    kept = getattr(module, name)

    def stopped(*args: object, **kwargs: object) -> object:
        os.kill(os.getpid(), number)
        return kept(*args, **kwargs)

    monkeypatch.setattr(module, name, stopped)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_anything_is_published(model: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stop_at(monkeypatch, "onnx_lowrank.pipeline.confirm", "final_timing", number)
    before = sorted(model.parent.iterdir())
    done = run("optimize", model, *BYTES_PER_ACTIVATION, "--report", model.with_name("r.json"))
    assert (done.exit_code, done.output) == (STOPPED, "stopped; nothing was written\n")
    assert sorted(model.parent.iterdir()) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_after_the_model_was_published(model: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stop_at(monkeypatch, "onnx_lowrank.cli.optimize_command", "result_json", number)
    done = run("optimize", model, *BYTES_PER_ACTIVATION, "--report", model.with_name("r.json"))
    saved = model.with_name("m.lowrank.onnx")
    assert (done.exit_code, done.output) == (STOPPED, f"stopped; written: {saved}\n")
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.lowrank.onnx", "m.onnx"]


def test_after_more_was_written_over_what_was_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, curve = model.with_name("r.json"), model.with_name("c.csv")
    for file in (report, curve):
        file.write_text("old")
    stop_at(monkeypatch, "onnx_lowrank.pipeline", "pareto", signal.SIGINT)
    asked = ("--dry-run", "--report", report, "--pareto", curve, "--force", "--sensitivity", "weights")
    done = run("optimize", model, *BYTES_PER_ACTIVATION, *asked)
    assert (done.exit_code, done.output) == (STOPPED, f"stopped; written: {report}\n")
    assert curve.read_text() == "old"


def test_apply_and_the_small_commands_tell_it_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = model.with_name("r.json")
    stop_at(monkeypatch, "onnx_lowrank.cli.main", "render_inspection", signal.SIGTERM)
    done = run("inspect", model, "--report", report)
    assert (done.exit_code, done.output) == (STOPPED, f"stopped; written: {report}\n")
    report.unlink()
    stop_at(monkeypatch, "onnx_lowrank.cli.main", "comparison_json", signal.SIGTERM)
    done = run("compare", model, model, *BYTES_PER_ACTIVATION, "--report", report)
    assert (done.exit_code, done.output) == (STOPPED, "stopped; nothing was written\n")
    plan, out = model.with_name("p.json"), model.with_name("o.onnx")
    given = ("--dry-run", "--sensitivity", "weights", "--save-plan", plan)
    assert run("optimize", model, *BYTES_PER_ACTIVATION, *given).exit_code == 0
    stop_at(monkeypatch, "onnx_lowrank.cli.main", "say", signal.SIGTERM)
    done = run("apply", plan, model, "-o", out)
    assert (done.exit_code, done.output) == (STOPPED, f"stopped; written: {out}\n")


def test_what_others_made_meanwhile_is_not_said_to_be_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = model.with_name("r.json")
    module = importlib.import_module("onnx_lowrank.cli.main")

    def stopped(*args: object) -> str:
        report.write_text("mine")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "inspection_json", stopped)
    assert run("inspect", model, "--report", report).output == "stopped; nothing was written\n"


def test_a_second_signal_leaves_the_cleanup_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = shutil.rmtree

    def cleanup(*args, **kwargs) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        kept(*args, **kwargs)

    def stopped(*args: object) -> None:
        monkeypatch.setattr(shutil, "rmtree", cleanup)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(importlib.import_module("onnx_lowrank.pipeline.confirm"), "final_timing", stopped)
    done = run("optimize", model, *BYTES_PER_ACTIVATION)
    assert (done.exit_code, done.output) == (STOPPED, "stopped; nothing was written\n")
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.onnx"]


def test_a_third_one_is_heard_so_that_nothing_can_hang() -> None:
    with stoppable() as stop:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.asked == 3


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal here")
def test_a_hangup_that_is_ignored_already_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stoppable() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.asked == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_of_its_own_ends_with_one_line(tmp_path: Path, number: int) -> None:
    """The user's own code sends the signal, then another one while the process goes down."""
    store(linear(weight((16, 16), 0)), tmp_path / "m.onnx")
    (tmp_path / "data.py").write_text(
        f"import atexit, os\natexit.register(os.kill, os.getpid(), {int(number)})\n"
        f"def load_data():\n    os.kill(os.getpid(), {int(number)})\n    yield {{}}\n"
    )
    before = sorted(p.name for p in tmp_path.iterdir())
    command = [sys.executable, "-B", "-m", "onnx_lowrank", "optimize", "m.onnx", "--data", "data.py"]
    path = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout, done.stderr) == (STOPPED, "", "stopped; nothing was written\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == before
