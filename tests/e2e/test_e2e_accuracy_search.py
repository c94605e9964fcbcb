"""Lossless without a size: the most accurate smaller model by labels, claimed on samples that did not choose it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, node, options, value
from click.testing import CliRunner

import onnx_lowrank as lr
from onnx_lowrank.cli import main
from onnx_lowrank.errors import GoalError, PlanError
from onnx_lowrank.goals import Lossless

CLASSES, WIDE = 4, 16


def learned(noise: float, seed: int = 0) -> tuple[onnx.ModelProto, dict[str, dict[str, np.ndarray]]]:
    """Return a classifier whose hidden layer holds a few true directions and noise, and labelled sets.

    True labels are those of the directions alone: without the noise the network is right.
    """
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(WIDE, 3)) @ rng.normal(size=(3, WIDE))
    true /= np.linalg.norm(true, 2)
    apart = rng.normal(size=(WIDE, WIDE))
    hidden = (true + noise * apart / np.linalg.norm(apart, 2)).astype(np.float32)
    head = rng.normal(size=(WIDE, CLASSES)).astype(np.float32)
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("MatMul", ["h", "V"], ["y"])]
    model = build(nodes, [value("x", ["n", WIDE])], [value("y", ["n", CLASSES])], {"W": hidden, "V": head})
    sets = {}
    for name, n in (("calibration", 200), ("validation", 1600), ("test", 800)):
        x = rng.normal(size=(n, WIDE)).astype(np.float32)
        sets[name] = {"x": x, "labels": (x @ true @ head).argmax(1)}
    return model, sets


@functools.cache
def searched(noise: float, goal: Lossless | None = None, seed: int = 0, **changes: object) -> lr.Result:
    model, sets = learned(noise, seed)
    sources = lr.DataSources(data=sets["calibration"], validation=sets["validation"], test=sets["test"])
    return lr.optimize(model, sources, goal or Lossless(), options(**changes))


def test_a_network_that_holds_noise_is_better_without_it():
    result = searched(0.8)
    assert result.changed
    assert result.verdict is not None
    assert result.test is not None
    assert result.reason.startswith("certified better: top1 is better by 0.")
    assert result.verdict.bound.value < -0.05
    assert result.test.drop.estimate < -0.05
    assert result.after.parameters < result.before.parameters
    assert result.verdict.samples == 800  # half of the validation samples claim
    assert {c.samples for c in result.findings.candidates if c.finalist} == {800}  # the other half chose
    assert result.findings.expected_gain is not None
    assert result.findings.expected_gain > 0.05


def test_a_network_without_noise_is_told_that_it_is_not_better():
    result = searched(0.0)
    assert "not shown to be better (gain between" in result.reason or not result.changed
    assert "certified better" not in result.reason


def test_single_weights_and_all_bases_compete():
    found = searched(0.8).findings.candidates
    bases = {"joint", "inputs", "weights", "joint, B^½"}
    labelled = {"labels", "labels, B^½", "labels, A alone", "labels, A^½", "labels, plain"}
    plain = {c.basis for c in found if not c.basis.endswith(", last layer")}
    assert plain == bases | labelled
    with_last = [c for c in found if c.basis.endswith(", last layer")]
    finalists = [c for c in found if c.finalist and c not in with_last]
    surest = sorted(finalists, key=lambda c: c.error - c.gain)[:3]
    safest = min(finalists, key=lambda c: 3 * c.error - c.gain)
    competing = {(c.basis, c.kept) for c in (*surest, safest)}
    assert {(c.basis.removesuffix(", last layer"), c.kept) for c in with_last} == competing
    assert any(c.single for c in found)
    alone = searched(0.8, sensitivity="inputs", last_layer=False)
    assert {c.basis for c in alone.findings.candidates} == {"inputs"}
    assert alone.steps == ()
    found = searched(0.8, exponents=(0.0, 1.0), last_layer=False).findings.candidates
    assert {c.basis for c in found} == {"joint"}


def test_the_same_seed_finds_the_same():
    first, second = searched(0.8), searched.__wrapped__(0.8)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert first.reason == second.reason


def test_without_labels_a_size_is_asked_for():
    model, sets = learned(0.8)
    sources = lr.DataSources(data={"x": sets["calibration"]["x"]}, validation={"x": sets["validation"]["x"]})
    with pytest.raises(GoalError, match=r"by labels: give them with the validation samples .* or give a size"):
        lr.optimize(model, sources, Lossless(), options())


def test_on_the_command_line(tmp_path: Path):
    model, sets = learned(0.8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    for name, arrays in sets.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    where = [f"--{'data' if n == 'calibration' else n}={tmp_path / f'{n}.npz'}" for n in sets]
    asked = ["optimize", str(tmp_path / "m.onnx"), *where, "--algorithm", "lossless", "--rank-multiple", "1"]
    done = CliRunner().invoke(
        main, [*asked, "--report", str(tmp_path / "r.json"), "--save-plan", str(tmp_path / "p.json")]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("certified better: top1 is better by")
    assert "Accuracy against size, on the samples that choose" in done.output
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["expected_gain"] > 0.05
    assert {"basis", "kept", "gain", "error", "samples", "single", "finalist"} <= report["candidates"][0].keys()
    saved = onnx.load(str(tmp_path / "m.lowrank.onnx"))
    with pytest.raises(PlanError, match="what is fitted to labels"):
        lr.SavedPlan.of_result(searched(0.8))
    data, validation = (str(tmp_path / f"{name}.npz") for name in ("calibration", "validation"))
    lr.apply(tmp_path / "p.json", tmp_path / "m.onnx", data, validation=validation, output=tmp_path / "a.onnx")
    again = onnx.load(str(tmp_path / "a.onnx"))
    assert again.graph.SerializeToString(deterministic=True) == saved.graph.SerializeToString(deterministic=True)
    record = json.loads(next(p.value for p in saved.metadata_props if p.key == "onnx_lowrank"))
    assert record["certificate"]["bound"] < 0
