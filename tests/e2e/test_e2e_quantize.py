"""--then: what is searched, judged, reported and saved is the factored and quantised model."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, mlp, node, normal, options, run, value, weight
from click.testing import CliRunner

from onnx_lowrank.cli import main
from onnx_lowrank.errors import DataError, GoalError, ModelError, RuntimeProblem
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.graph.model_io import content_hash, load
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline import DataSources, apply, compare, optimize
from onnx_lowrank.pipeline.post_quantize_size import plans_within
from onnx_lowrank.plan import Problem
from onnx_lowrank.quantization import onnxruntime_int8 as quantize
from onnx_lowrank.quantization.onnxruntime_int8 import quantised, quantised_ops
from onnx_lowrank.results.parts import BOTH, FACTORED, INT8
from onnx_lowrank.results.result import Result
from onnx_lowrank.results.saved_plan import SavedPlan, read_plan
from onnx_lowrank.types import UNCHANGED, Cost, Curve, Form, Option, Plan

MODEL = mlp([64, 96, 96, 8], [6, 10, 8], 11)
LOOSE, STRICT = Gate(max_drop=0.1, observed=True), Gate(max_drop=0.0, observed=True)
THEN = ("quantize", "quantize-dynamic", "quantize-weights")


@pytest.fixture(params=[True, False], ids=["8 bits", "7 bits"])
def any_width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take weights of 8 and of 7 bits, whatever this processor is: for what must hold with either."""
    monkeypatch.setattr(quantize, "full_range", lambda: request.param)


def spoiled() -> tuple[onnx.ModelProto, DataSources]:
    """Return a model that int8 ruins on every processor, whatever the width of weights, and its decisions as labels.

    One input is ten thousand times as large as the others and of no effect. A range that holds it has steps of a
    hundred, in which all others are 0. Its weights are 0 in float, and stay so in factors. Decisions have a margin.
    """
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    stored = next(t for t in model.graph.initializer if t.name == "fc0")
    W = onnx.numpy_helper.to_array(stored).copy()
    W[:, 0] = 0
    stored.CopyFrom(onnx.numpy_helper.from_array(W, "fc0"))

    def drawn(count: int, seed: int) -> dict[str, np.ndarray]:
        x = normal([2 * count, 64], seed) * np.where(np.arange(64) == 0, 1e4, 1).astype(np.float32)
        scores = run(model, {"x": x})["y"]
        second, first = np.sort(scores, axis=1)[:, -2:].T
        clear = np.flatnonzero(first - second > 1e-3)[:count]
        return {"x": x[clear], "labels": scores[clear].argmax(1)}

    return model, DataSources(data=drawn(64, 1), validation=drawn(120, 2), test=drawn(60, 3))


def samples(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return vectors with the model's own decisions as labels: its top1 is 1."""
    x = normal([count, 64], seed)
    return {"x": x, "labels": run(MODEL, {"x": x})["y"].argmax(1)}


def sources() -> DataSources:
    return DataSources(data=samples(64, 1), validation=samples(120, 2), test=samples(60, 3))


def stacked(**changes: object) -> Options:
    return options(**{"rank_multiple": 8, "then": "quantize", "sensitivity": "weights", **changes})


@pytest.mark.usefixtures("usable_width")
@pytest.mark.parametrize("then", THEN)
def test_a_stack_that_holds_is_saved_and_every_step_is_reported(then: str, tmp_path: Path):
    out = tmp_path / "out.onnx"
    result = optimize(MODEL, sources(), Compact(gate=LOOSE), stacked(then=then), output=out)
    assert result, result.reason
    assert [step.name for step in result.steps] == [FACTORED, INT8, BOTH]
    factored, int8, both = result.steps
    assert both.size == result.after
    assert both.size.bytes == out.stat().st_size < min(factored.size.bytes, int8.size.bytes)
    assert max(factored.size.bytes, int8.size.bytes) < result.before.bytes
    assert factored.size.parameters == both.size.parameters < int8.size.parameters == result.before.parameters
    assert (both.verdict, both.test, both.latency) == (result.verdict, result.test, result.latency)
    assert all(step.verdict.samples == 120 and step.test.samples == 60 and step.latency for step in result.steps)
    assert both.verdict.drop.estimate <= LOOSE.max_drop
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    saved = load(out)
    assert content_hash(saved) == content_hash(result.model)
    assert quantised_ops(saved)
    assert compare(MODEL, out, samples(120, 2), LOOSE, options()).verdict.drop == both.verdict.drop
    record = json.loads({p.key: p.value for p in saved.metadata_props}["onnx_lowrank"])
    assert record["quantised"]["then"] == then
    assert record["ranks"].keys() == {choice.weight for choice in result.plan.factored}


@pytest.mark.usefixtures("any_width")
def test_every_trial_is_of_the_stack():
    """No drop is allowed, and int8 costs most decisions: factors that hold by themselves do not pass."""
    model, given = spoiled()
    assert optimize(model, given, Compact(gate=STRICT), stacked(then=None))
    result = optimize(model, given, Compact(gate=STRICT), stacked())
    assert not result
    assert result.trials
    assert all(trial.verdict.drop.estimate > 0.3 for trial in result.trials)


@pytest.mark.usefixtures("any_width")
def test_a_stack_that_fails_says_which_step_broke_it(tmp_path: Path):
    model, given = spoiled()
    result = optimize(model, given, Compact(gate=STRICT), stacked(), output=tmp_path / "o.onnx")
    assert not result
    assert list(tmp_path.iterdir()) == []
    assert result.model == model
    factored, int8 = result.steps
    assert (factored.name, int8.name) == (FACTORED, INT8)
    assert factored.verdict.passed
    assert not int8.verdict.passed
    assert "; factored alone it holds (drop 0, " in result.reason
    assert f"int8 of the original alone does not hold (drop {int8.verdict.drop.estimate:.4g}, " in result.reason


@pytest.mark.usefixtures("usable_width")
def test_a_test_set_that_refutes_the_stack_shows_the_steps_on_it(tmp_path: Path):
    """Half of the inputs lie far beyond all ranges that int8 was made for, and are cut off there."""
    x = normal([200, 64], 3) * np.where(np.arange(64) < 32, 100, 1).astype(np.float32)
    wrong = {"x": x, "labels": run(MODEL, {"x": x})["y"].argmax(1)}
    given = DataSources(data=samples(64, 1), validation=samples(120, 2), test=wrong)
    result = optimize(
        MODEL, given, Compact(gate=Gate(max_drop=0.05, observed=True)), stacked(), output=tmp_path / "o.onnx"
    )
    assert not result
    assert "held on validation" in result.reason
    assert "; there factored alone it has a drop of " in result.reason
    assert "; there int8 of the original alone has a drop of " in result.reason
    assert [(step.name, step.latency) for step in result.steps] == [(FACTORED, None), (INT8, None), (BOTH, None)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("usable_width")
def test_a_target_size_counts_the_bytes_of_the_stack(tmp_path: Path):
    """A model of full rank: every byte of the budget is worth something."""
    model = mlp([64, 96, 96, 8], [None, None, None], 11)
    alone = quantised(model, "quantize", [{"x": x[None]} for x in samples(64, 1)["x"]]).ByteSize()
    goal = Lossless(target_size=alone - 4000, gate=Gate(max_drop=1.0, observed=True))
    chosen = stacked(allow_weak_baseline=True)  # labels of another model
    result = optimize(model, sources(), goal, chosen, output=tmp_path / "o.onnx")
    assert result, result.reason
    assert alone - 8000 < (tmp_path / "o.onnx").stat().st_size <= alone - 4000


def test_a_target_size_out_of_reach_names_the_smallest_and_that_works(tmp_path: Path):
    with pytest.raises(GoalError, match=r"the smallest factored and quantised file has [0-9,]+ bytes") as caught:
        optimize(MODEL, sources(), Lossless(target_size=1000, gate=LOOSE), stacked(), output=tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []
    named = int(str(caught.value).split(" has ")[1].split(" bytes")[0].replace(",", ""))
    result = optimize(
        MODEL,
        sources(),
        Lossless(target_size=named, gate=Gate(max_drop=1.0, observed=True)),
        stacked(),
        output=tmp_path / "o.onnx",
    )
    assert result, result.reason
    assert (tmp_path / "o.onnx").stat().st_size <= named


def test_a_target_that_int8_alone_meets_needs_no_factors():
    result = optimize(MODEL, sources(), Lossless(target_size=10**6, gate=LOOSE), stacked())
    assert not result
    assert "int8 alone is within the target size already" in result.reason
    assert [step.name for step in result.steps] == [INT8]


def ladder() -> Problem:
    """One weight of 1000 parameters, or 990, 980, … 10 with growing loss."""
    picks = [Option(Form("svd", (n,)), Cost(n, 4 * n), error=1 - n / 1000, loss=1000.0 - n) for n in range(990, 0, -10)]
    return Problem((Curve("s", (Option(UNCHANGED, Cost(1000, 4000)), *picks)),), {"s": "W"}, "bytes")


@pytest.mark.parametrize("per_parameter", [1, 2, 4])
@pytest.mark.parametrize("room", [0.15, 0.5, 0.85])
def test_the_budget_is_found_whatever_int8_leaves_of_a_weight(per_parameter: int, room: float):
    """Files of 200 bytes and 1, 2 or 4 for a parameter: all plans fit, and all but a tenth of the room is used."""

    def measured(plan: Plan) -> int:
        return 200 + per_parameter * plan.cost.parameters

    target = 200 + int(per_parameter * 1000 * room)
    plans = list(plans_within(target, ladder(), 200 + per_parameter * 1000, measured))
    assert plans
    assert all(measured(plan) <= target for plan in plans)
    assert max(plan.cost.parameters for plan in plans) >= 1000 * (room - 0.1)


def test_no_plan_is_proposed_where_int8_alone_is_small_enough():
    assert list(plans_within(300, ladder(), 300, lambda plan: 0)) == []


def saved(result: Result) -> SavedPlan:
    return SavedPlan.of_result(result, "test")


@pytest.mark.parametrize(
    ("sensitivity", "then"), [("inputs", "quantize"), ("weights", "quantize-dynamic"), ("weights", "quantize-weights")]
)
def test_same_bytes_again_and_the_plan_repeats_both_steps(sensitivity: str, then: str, tmp_path: Path):
    files, chosen = [tmp_path / f"{i}.onnx" for i in range(2)], stacked(then=then, sensitivity=sensitivity)
    given = DataSources(data=samples(64, 1), validation=samples(120, 2))
    results = [optimize(MODEL, given, Compact(gate=LOOSE), chosen, output=file) for file in files]
    assert results[0], results[0].reason
    assert files[0].read_bytes() == files[1].read_bytes()
    (tmp_path / "plan.json").write_text(saved(results[0]).to_json(), encoding="utf-8")
    plan = read_plan(tmp_path / "plan.json")
    assert plan.then == then
    assert plan.needs_data == (then == "quantize")
    data = {"data": samples(64, 1), "validation": samples(120, 2)} if plan.needs_data else {}
    again = apply(
        plan, MODEL, options=Options(runtime=Runtime(provider="cpu", threads=1)), output=tmp_path / "a.onnx", **data
    )
    assert again.graph == results[0].model.graph
    assert load(tmp_path / "a.onnx").graph == again.graph


def test_a_static_plan_from_weights_alone_still_needs_samples(tmp_path: Path):
    result = optimize(MODEL, sources(), Compact(gate=LOOSE), stacked())
    with pytest.raises(DataError, match="this plan's int8 ranges come from them: give the calibration samples"):
        apply(saved(result), MODEL, output=tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_quantised_is_told_before_anything_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*_: object, **__: object) -> object:
        raise AssertionError("collected")

    monkeypatch.setattr(importlib.import_module("onnx_lowrank.pipeline.session"), "calibrate", never)
    twice = quantised(MODEL, "quantize", [{"x": x[None]} for x in samples(8, 1)["x"]])
    W = weight((64, 64), 1).astype(np.float64)
    double = build(
        [node("MatMul", ["x", "W"], ["y"])], [value("x", ["n", 64], 11)], [value("y", ["n", 64], 11)], {"W": W}
    )
    wide = [{"x": x[None].astype(np.float64)} for x in samples(8, 1)["x"]]
    for model, data, says in (
        (twice, samples(8, 1), "the model is quantised already"),
        (double, wide, "--then quantize: "),
    ):
        with pytest.raises(ModelError, match=says):
            optimize(model, data, Compact(gate=LOOSE), stacked(metric="relative-l2"), output=tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_file_that_does_not_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unloadable(model: onnx.ModelProto, *_: object) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        made.graph.node[0].op_type = "NoSuchOperator"
        return made

    monkeypatch.setattr(importlib.import_module("onnx_lowrank.pipeline.post_quantize"), "quantised", unloadable)
    with pytest.raises(
        ModelError, match=r"--then quantize: after it onnxruntime cannot load the model: .*leave --then"
    ):
        optimize(MODEL, sources(), Compact(gate=LOOSE), stacked(), output=tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_provider_without_int8_kernels_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        importlib.import_module("onnx_lowrank.pipeline.post_quantize"), "runs_on_cpu", lambda name: False
    )
    with pytest.raises(RuntimeProblem, match=r"makes models for the CPU.* give --provider cpu"):
        optimize(MODEL, sources(), Compact(gate=LOOSE), stacked())


def test_an_unknown_step_is_refused():
    with pytest.raises(GoalError, match="unknown step 'prune' after factoring"):
        Options(then="prune")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(MODEL, tmp_path / "model.onnx")
    for name, count, seed in (("cal", 64, 1), ("val", 120, 2)):
        np.savez(tmp_path / f"{name}.npz", **samples(count, seed))
    return tmp_path


def test_the_command_line_shows_the_steps_in_80_columns(folder: Path):
    report = folder / "report.json"
    arguments = ["optimize", folder / "model.onnx", "--data", folder / "cal.npz", "--validation", folder / "val.npz"]
    more = ["--observed", "--max-drop", "0.1", "--threads", "1", "--then", "quantize", "--report", report]
    done = CliRunner().invoke(main, [str(a) for a in (*arguments, *more)])
    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.output.splitlines() if str(folder) not in line) <= 80
    table = done.output.split("Each step, on validation")[1].split("Factored weights")[0]
    assert all(name in table for name in ("original", FACTORED, INT8, BOTH, "latency ×"))
    content = json.loads(report.read_text(encoding="utf-8"))
    assert [step["name"] for step in content["steps"]] == [FACTORED, INT8, BOTH]
    assert content["options"]["then"] == "quantize"
    assert all(step["latency"]["ratio"]["estimate"] > 0 for step in content["steps"])
    bad = CliRunner().invoke(main, [str(a) for a in (*arguments, "--then", "prune")])
    assert bad.exit_code == 2


def test_ranges_found_at_run_time_are_judged_a_sample_at_a_time():
    """In a batch one scale serves all samples: what a user gets, one at a time, is another model."""
    x = normal([40, 64], 5) * np.where(np.arange(40) % 2, 100, 1).astype(np.float32)[:, None]
    made = quantised(MODEL, "quantize-dynamic", [])
    chosen = options(metric="relative-l2")
    verdict = compare(MODEL, made, {"x": x}, replace(LOOSE, max_drop=10.0), chosen).verdict
    expected = run(MODEL, {"x": x})["y"]
    alone = np.concatenate([run(made, {"x": row[None]})["y"] for row in x])
    together = np.concatenate([run(made, {"x": x[i : i + 8]})["y"] for i in range(0, 40, 8)])
    error = [np.mean(np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1))
             for got in (alone, together)]  # fmt: skip
    assert error[1] > 3 * error[0]
    assert verdict.candidate.estimate == pytest.approx(error[0], rel=1e-3)
