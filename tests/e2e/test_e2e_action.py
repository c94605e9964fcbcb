"""The GitHub action: its steps' scripts, run by bash on a small model, with the inputs as a runner gives them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from action import ACTION, STEPS, Done, run_step
from builders import mlp, normal

QUICK = "--observed\n--max-drop=10\n\n--sensitivity=weights\n--threads=1\n--quiet\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(mlp([24, 32, 32, 6], [3, 5, 2], 11), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "c.npz", x=normal([64, 24], 1))
    return tmp_path


def optimized(folder: Path, **inputs: str) -> Done:
    known = {
        "steps.install.outputs.python": sys.executable, "runner.temp": str(folder), "github.action": "step",
    }  # fmt: skip
    given = {"model": "m.onnx", "data": "c.npz", "args": QUICK} | {k.replace("_", "-"): v for k, v in inputs.items()}
    return run_step("optimize", folder, given, known)


def test_a_model_that_passes_is_saved_and_told_of(folder: Path):
    done = optimized(folder)
    assert done.code == 0, done.printed
    assert done.outputs.keys() == ACTION["outputs"].keys()
    assert (done.outputs["saved"], done.outputs["output"]) == ("true", "m.lowrank.onnx")
    assert (folder / "m.lowrank.onnx").stat().st_size < (folder / "m.onnx").stat().st_size
    report = json.loads(Path(done.outputs["report"]).read_text(encoding="utf-8"))
    assert report["reason"] == done.outputs["reason"]
    assert done.outputs["reason"] in done.summary


def test_names_are_words_whatever_they_hold(folder: Path):
    names = {"model": "--help $(touch broken).onnx", "data": "-c;touch broken.npz", "output": "a b\n'c.onnx"}
    (folder / "m.onnx").rename(folder / names["model"])
    (folder / "c.npz").rename(folder / names["data"])
    done = optimized(folder, **names, report="`touch broken` r.json")
    assert done.code == 0, done.printed
    assert done.outputs["output"] == names["output"]
    assert (folder / names["output"]).is_file()
    assert (folder / done.outputs["report"]).is_file()
    assert not (folder / "broken").exists()


@pytest.mark.parametrize(("asked", "code"), [("false", 0), ("true", 3)])
def test_nothing_found_fails_only_where_that_is_asked_for(folder: Path, asked: str, code: int):
    done = optimized(folder, args="--max-drop=0.0001\n--threads=1\n--quiet", fail_if_nothing=asked)
    assert done.code == code, done.printed
    assert (done.outputs["saved"], done.outputs["output"]) == ("false", "")
    assert "certify" in done.outputs["reason"]
    assert not (folder / "m.lowrank.onnx").exists()


@pytest.mark.parametrize(("inputs", "code"), [({"data": "nowhere.npz"}, 1), ({"args": "--no-such-option"}, 2)])
def test_an_error_fails_with_its_code(folder: Path, inputs: dict[str, str], code: int):
    done = optimized(folder, **inputs)
    assert done.code == code, done.printed
    assert done.outputs == {}


def test_no_input_is_pasted_into_a_script():
    """An expression in a script would run what an input holds; in `env` it is a word."""
    assert [name for name, step in STEPS.items() if "${{" in step.get("run", "")] == []
    told = " ".join(text for step in STEPS.values() for text in (step.get("env") or step["with"]).values())
    assert [name for name in ACTION["inputs"] if f"inputs.{name} " not in told] == []
