"""Its word can be taken: what measures nothing is refused within seconds, in one line, and nothing is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, constant, mlp, node, normal, options, run, value, weight
from click.testing import CliRunner

from onnx_lowrank import Compact, DataError, DataSources, Gate, Lossless, MetricError, ModelError, optimize
from onnx_lowrank.cli import main
from onnx_lowrank.demo import MODEL, demo_samples
from onnx_lowrank.graph.model_io import load
from onnx_lowrank.pipeline import compare


@pytest.fixture(scope="module")
def sets() -> dict[str, dict[str, np.ndarray]]:
    return demo_samples()


def first(arrays: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Return the first samples of a set, where more would only take longer."""
    return {name: array[:count] for name, array in arrays.items()}


def refused(folder: Path, sets: dict[str, dict[str, np.ndarray]], *more: str, code: int = 1) -> str:
    """Run optimize on the demo with these samples; return the one line it answers, with nothing written."""
    (folder / "demo.onnx").write_bytes(MODEL.read_bytes())
    for name, arrays in sets.items():
        np.savez(folder / f"{name}.npz", **arrays)
    before = sorted(path.name for path in folder.iterdir())
    given = ["optimize", folder / "demo.onnx", "--data", folder / "calibration.npz"]
    if "validation" in sets:
        given += ["--validation", folder / "validation.npz"]
    done = CliRunner().invoke(main, [str(a) for a in (*given, *more)])
    assert done.exit_code == code, done.output
    assert sorted(path.name for path in folder.iterdir()) == before
    line = done.output.strip().splitlines()[-1]
    assert line.startswith("error: " if code == 1 else "NOTHING SAVED: ")
    return line


def changed(sets: dict[str, dict[str, np.ndarray]], **made: object) -> dict[str, dict[str, np.ndarray]]:
    """Return the sets, test left out, with arrays made anew: name=function(arrays)."""
    kept = {name: sets[name] for name in ("calibration", "validation")}
    return {n: {**a, **{k: np.asarray(f(a)) for k, f in made.items()}} for n, a in kept.items()}  # type: ignore[operator]


def test_shifted_labels_are_refused(sets, tmp_path: Path):
    line = refused(tmp_path, changed(sets, labels=lambda a: (a["labels"] + 3) % 10))
    assert "top1 measures nothing here" in line
    assert "another class order or shifted" in line
    assert "--allow-weak-baseline" in line


def test_labels_in_another_order_are_refused_though_most_are_right(sets, tmp_path: Path):
    order = np.array([1, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    line = refused(tmp_path, changed(sets, labels=lambda a: order[a["labels"]]))
    assert "the labels are in another order than the model's classes: the original is right in 0.7" in line
    assert "with classes renumbered (0 → 1, 1 → 0); --classes gives the order of named ones" in line


def test_images_in_another_scale_are_refused(sets, tmp_path: Path):
    """The original is right more often than chance, and all but certain of what it says."""
    line = refused(tmp_path, changed(sets, image=lambda a: a["image"] * np.float32(255)))
    assert "is right in 0.1" in line or "is right in 0.2" in line
    assert "% sure of its decisions" in line
    assert "preprocessing" in line


def test_images_in_a_smaller_scale_are_refused(sets, tmp_path: Path):
    assert "top1 measures nothing" in refused(tmp_path, changed(sets, image=lambda a: a["image"] / np.float32(255)))


def test_labels_of_minus_one_are_refused(sets, tmp_path: Path):
    line = refused(tmp_path, changed(sets, labels=lambda a: a["labels"] * 0 - 1), "--metric", "top1")
    assert "a label is -1, but the output has 10 classes" in line


USERS = """
def never(outputs, labels):
    return [False for _ in labels]

def always(outputs, labels):
    return [True for _ in labels]

def shapes(outputs, labels):
    return [(y == label).all() for y, label in zip(outputs["logits"].argmax(1), labels)]

def coarse(outputs, labels):
    return [y.argmax() // 5 == label // 5 for y, label in zip(outputs["logits"], labels)]

def constant(outputs, labels):
    return 0.5
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("never", "measures nothing here: it is 0 for the original, and 0 on average"),
        ("always", "measures nothing here: it is 1 for the original, and 1 on average"),
        ("constant", "measures nothing here: it is 0.5 for the original"),
        ("shapes", "failed in line 9: AttributeError: 'list' object has no attribute 'argmax'"),
    ],
)
def test_a_metric_of_ones_own_that_measures_nothing_or_fails_is_refused(sets, tmp_path: Path, name: str, says: str):
    (tmp_path / "own.py").write_text(USERS, encoding="utf-8")
    line = refused(tmp_path, changed(sets), "--metric", f"{tmp_path / 'own.py'}:{name}")
    assert says in line
    if name == "shapes":
        assert "one array a sample, of: 'logits' float32 [1, 10]; each label is int64 []" in line


def test_a_metric_that_is_blind_to_decisions_is_refused_when_they_change(sets, tmp_path: Path):
    """Two superclasses of five: the network may change its decisions within them as it likes."""
    (tmp_path / "own.py").write_text(USERS, encoding="utf-8")
    sources = DataSources(data=first(sets["calibration"], 64), validation=first(sets["validation"], 1000))
    chosen = options(metric=f"{tmp_path / 'own.py'}:coarse", sensitivity="weights", rank_multiple=8)
    goal = Lossless(keep=0.1, gate=Gate(max_drop=0.01, observed=True))
    with pytest.raises(MetricError, match=r"holds while decisions change: in 0\.\d+ of 1000 samples .*superclasses"):
        optimize(MODEL, sources, goal, chosen)
    assert optimize(MODEL, sources, goal, replace(chosen, allow_weak_baseline=True))


def test_one_class_in_validation_is_told_on_the_first_screen(sets):
    chosen = sets["validation"]["labels"] == 1
    part = {name: array[chosen][:200] for name, array in sets["validation"].items()}
    sources = DataSources(data=first(sets["calibration"], 64), validation=part)
    result = optimize(MODEL, sources, Lossless(keep=0.5, gate=Gate(max_drop=0.05)), options(rank_multiple=8))
    assert result.warnings[0] == "one-sided validation: every label is 1; other classes are not judged"


def test_too_few_samples_end_before_any_work(sets, tmp_path: Path):
    few = {"calibration": sets["calibration"]}
    line = refused(tmp_path, few, code=3)
    assert "102 validation samples cannot certify a drop below 0.01 in top1 at 95 % confidence" in line
    assert "a drop of 0.029 could be, at best; 299 would do if nothing changed at all" in line
    assert all(way in line for way in ("--validation", "--metric agreement", "--max-drop", "--observed"))


def test_a_drop_of_zero_can_only_be_observed(sets, tmp_path: Path):
    for path in (tmp_path / "m.onnx", tmp_path / "x.npz"):
        path.write_bytes(b"")
    done = CliRunner().invoke(main, ["optimize", str(tmp_path / "m.onnx"), "--data", "x.npz", "--max-drop", "0"])
    assert done.exit_code == 2
    assert "no finite number of samples certifies a drop of 0" in done.output
    assert "--observed" in done.output


def dropout() -> onnx.ModelProto:
    model = mlp([64, 64, 64, 8], [8, 8, 8], 5)
    for each in model.graph.node:
        each.input[:] = ["dropped" if name == "r0" else name for name in each.input]
    model.graph.node.insert(2, node("Dropout", ["r0", "ratio", "training"], ["dropped"], "drop"))
    model.graph.node.insert(2, constant("ratio", np.array(0.3, np.float32)))
    model.graph.node.insert(2, constant("training", np.array(True)))
    return model


def test_dropout_in_training_mode_is_refused_by_name():
    with pytest.raises(ModelError, match=r"not deterministic: Dropout 'drop' is in training mode; .*evaluation mode"):
        optimize(dropout(), {"x": normal([64, 64], 1)}, options=options())


def noisy() -> onnx.ModelProto:
    model = mlp([64, 64, 8], [8, 8], 5)
    model.graph.node[-1].output[0] = "clean"
    model.graph.node.append(node("RandomNormalLike", ["clean"], ["noise"], "noise", scale=0.05))
    model.graph.node.append(node("Add", ["clean", "noise"], ["y"], "add"))
    return model


def test_a_random_operator_is_refused_by_name():
    with pytest.raises(
        ModelError, match=r"output 'y' differs between two runs .*RandomNormalLike 'noise'.*--allow-random"
    ):
        optimize(noisy(), {"x": normal([64, 64], 1)}, options=options())


def test_a_random_model_can_be_judged_against_its_own_spread():
    data = {"x": normal([400, 64], 1)}
    chosen = options(allow_random=True, sensitivity="weights", rank_multiple=8)
    result = optimize(noisy(), data, Lossless(keep=0.6, gate=Gate(max_drop=0.1, observed=True)), chosen)
    assert result, result.reason
    assert any("judged against its own spread" in warning for warning in result.warnings)
    assert 0 < result.verdict.original.estimate < 1  # its own agreement with itself


def cell() -> onnx.ModelProto:
    """Scores in y, and a state that hangs on directions of the weight which the scores do not look at."""
    W = weight((32, 64), 1)
    head = weight((64, 4), 2)
    head[8:] = 0
    nodes = [
        node("MatMul", ["x", "W"], ["state"], "cell"),
        node("MatMul", ["state", "head"], ["logits"], "head"),
    ]
    outputs = [value("logits", ["n", 4]), value("state", ["n", 64])]
    return build(nodes, [value("x", ["n", 32])], outputs, {"W": W, "head": head})


def test_an_output_that_nobody_judged_is_not_silent():
    model, x = cell(), normal([700, 32], 3)
    labels = run(model, {"x": x})["logits"].argmax(1)
    data = {"x": x[:200], "labels": labels[:200]}
    sources = DataSources(data=data, validation={"x": x[200:], "labels": labels[200:]})
    goal = Lossless(keep=0.55, gate=Gate(max_drop=0.05))
    chosen = options(exclude=("head",))
    refused = optimize(model, sources, goal, chosen)
    assert not refused
    assert "output 'state', which the metric does not look at, moved too far" in refused.reason
    assert "--output NAME" in refused.reason
    result = optimize(model, sources, goal, replace(chosen, outputs=("logits",)))
    assert result, result.reason
    assert any("outputs that do not count (--output): 'state' moved by" in note for note in result.verdict.notes)


def test_the_certificate_is_in_the_file_and_compare_says_the_same(sets, tmp_path: Path):
    validation = first(sets["validation"], 500)
    sources = DataSources(data=first(sets["calibration"], 128), validation=validation)
    out = tmp_path / "o.onnx"
    result = optimize(
        MODEL, sources, Compact(), options(rank_multiple=32, sensitivity="inputs", include=("7.weight",)), output=out
    )
    assert result, result.reason
    assert result.reason.startswith("certified: top1 is ")
    record = json.loads({p.key: p.value for p in load(out).metadata_props}["onnx_lowrank"])["certificate"]
    assert record["word"] == "certified"
    assert record["bound"] <= record["allowed"] == 0.01
    assert (record["metric"], record["samples"], record["confidence"]) == ("top1", 500, 0.95)
    assert record["plans"] == len(result.trials)
    assert len(record["validation_sha256"]) == 64
    again = compare(MODEL, out, validation, options=options())
    assert again.verdict.word == "certified"
    assert again.verdict.bound == result.verdict.bound
    passed = [trial.verdict.passed for trial in result.trials]
    assert passed == sorted(passed, reverse=True)  # all up to the first that could not be certified
    assert passed.count(False) <= 1
    sizes = [trial.size.parameters for trial in result.trials]
    assert sizes == sorted(sizes, reverse=True)


def test_without_labels_nothing_has_to_be_said():
    model, x = cell(), normal([1900, 32], 3)
    result = optimize(model, {"x": x}, options=options(outputs=("logits",), exclude=("head",)))
    assert result, result.reason
    assert result.verdict.metric == "agreement"
    assert result.verdict.bound.method == "Clopper-Pearson"
    assert result.reason.startswith("certified: agreement is ")


def test_without_labels_or_decisions_a_relative_error_is_certified():
    W = weight((32, 64), 1, rank=6) + 1e-4 * weight((32, 64), 2)
    model = build([node("MatMul", ["x", "W"], ["y"])], [value("x", ["n", 32])], [value("y", ["n", 64])], {"W": W})
    result = optimize(model, {"x": normal([700, 32], 1)}, options=options())
    assert result, result.reason
    assert result.verdict.metric == "relative-l2"
    assert result.verdict.allowed == 0.05
    assert result.verdict.bound.exact


def test_samples_of_one_source_are_split_and_counted_together(tmp_path: Path):
    model, x = cell(), normal([1200, 32], 3)
    data = {"x": x, "labels": run(model, {"x": x})["logits"].argmax(1), "patient": np.repeat(np.arange(120), 10)}
    chosen = options(groups="patient", outputs=("logits",), exclude=("head",))
    result = optimize(model, data, Lossless(keep=0.8, gate=Gate(max_drop=0.3)), chosen)
    assert result, result.reason
    assert (result.verdict.samples, result.verdict.units) == (240, 24)
    assert result.verdict.bound.method == "betting on bounded values"
    bad = {name: array for name, array in data.items() if name != "patient"}
    with pytest.raises(DataError, match=r"no key 'patient', which --groups names; the keys given are 'x'"):
        optimize(model, bad, options=chosen)


def test_random_data_certify_nothing(tmp_path: Path):
    onnx.save(mlp([64, 64, 8], [8, 8], 5), tmp_path / "m.onnx")
    arguments = ["optimize", str(tmp_path / "m.onnx"), "--random-data", "--max-drop", "0.5", "--sensitivity", "weights"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("observed, not certified: ")
    assert "! calibrated and validated on random data" in done.output
