"""Fits to calibration labels behind factoring: judged together, reported apart, told in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, options, value
from click.testing import CliRunner

import onnx_lowrank as lr
from onnx_lowrank.cli import main
from onnx_lowrank.errors import MetricError
from onnx_lowrank.goals import Compact, Gate

WIDE, CLASSES = 16, 3


def shifted(seed: int = 0) -> tuple[onnx.ModelProto, dict[str, dict[str, np.ndarray]]]:
    """Return a classifier of which one class is preferred by mistake, and labelled sets."""
    rng = np.random.default_rng(seed)
    hidden = (rng.normal(size=(WIDE, 4)) @ rng.normal(size=(4, WIDE)) / WIDE).astype(np.float32)
    head = rng.normal(size=(WIDE, CLASSES)).astype(np.float32)
    wrong = np.array([1.5, 0, -1.5], np.float32)
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node("MatMul", ["h", "V"], ["z"]),
        node("Add", ["z", "b"], ["y"]),
    ]
    weights = {"W": hidden, "V": head, "b": wrong}
    model = build(nodes, [value("x", ["n", WIDE])], [value("y", ["n", CLASSES])], weights)
    sets = {}
    for name, n in (("calibration", 400), ("validation", 600), ("test", 400)):
        x = rng.normal(size=(n, WIDE)).astype(np.float32)
        sets[name] = {"x": x, "labels": (x @ hidden @ head).argmax(1)}
    return model, sets


def test_a_bias_is_found_and_reported_apart():
    model, sets = shifted()
    sources = lr.DataSources(data=sets["calibration"], validation=sets["validation"], test=sets["test"])
    result = lr.optimize(model, sources, Compact(gate=Gate(max_drop=0.05)), options(logit_bias=True))
    assert result.changed
    assert [step.name for step in result.steps] == ["factored alone", "labels alone", "both"]
    factored, labels, both = (step.verdict.drop.estimate for step in result.steps)
    assert abs(factored) < 0.05
    assert labels < -0.1
    assert both < -0.1
    assert any(note.startswith("bias fitted to calibration labels: ") for note in result.notes)
    assert result.verdict is not None
    assert result.verdict.drop.estimate == both


def test_without_labels_it_is_refused_before_any_work():
    model, sets = shifted()
    sources = lr.DataSources(data={"x": sets["calibration"]["x"]}, validation=sets["validation"])
    with pytest.raises(MetricError, match="--logit-bias needs calibration labels that are class numbers"):
        lr.optimize(model, sources, Compact(), options(logit_bias=True))


def test_the_file_says_so_and_no_plan_is_saved(tmp_path: Path):
    model, sets = shifted()
    onnx.save(model, str(tmp_path / "m.onnx"))
    for name, arrays in sets.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    asked = ["optimize", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "calibration.npz")]
    asked += ["--validation", str(tmp_path / "validation.npz"), "--rank-multiple", "1", "--max-drop", "0.05"]
    done = CliRunner().invoke(main, [*asked, "--last-layer", "--temperature"])
    assert done.exit_code == 0, done.output
    assert "labels alone" in done.output
    saved = onnx.load(str(tmp_path / "m.lowrank.onnx"))
    record = json.loads(next(p.value for p in saved.metadata_props if p.key == "onnx_lowrank"))
    assert {"temperature", "last_layer"} <= set(record["switches"])
    done = CliRunner().invoke(main, [*asked, "--last-layer", "--save-plan", str(tmp_path / "p.json")])
    assert done.exit_code == 2
    assert "a plan does not repeat what is fitted to labels" in done.output
