"""The whole way on small models whose answer is known: the true rank is found, budgets hold, and a no is a no."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import build, convnet, elements, linear, mlp, node, normal, options, run, value, weight

from onnx_lowrank.errors import DataError, GoalError, MetricError, ModelError, PlanError
from onnx_lowrank.goals import Compact, Gate, Lossless
from onnx_lowrank.graph.model_io import content_hash, load
from onnx_lowrank.pipeline import DataSources, apply, compare, inspect, optimize
from onnx_lowrank.results.result import Result
from onnx_lowrank.results.saved_plan import SavedChoice, SavedPlan
from onnx_lowrank.types import Why

LOOSE = Gate(max_drop=10.0, observed=True)
SAME = Gate(max_drop=0.0, observed=True)
confirm_module = importlib.import_module("onnx_lowrank.pipeline.confirm")


Data = dict[str, np.ndarray]


def images(count: int, seed: int) -> Data:
    return {"x": normal([count, 4, 8, 8], seed)}


def labelled(model: onnx.ModelProto, count: int, seed: int) -> Data:
    """Return vectors with the model's own decisions as labels: its top1 is 1."""
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    x = normal([count, width], seed)
    return {"x": x, "labels": run(model, {"x": x})["y"].argmax(1)}


def low_rank_mlp() -> onnx.ModelProto:
    return mlp([24, 32, 32, 6], [3, 5, 2], 11)


def compacted(
    model: onnx.ModelProto | Path,
    data: Data | DataSources,
    output: Path | None = None,
    *,
    dry_run: bool = False,
    **chosen: object,
) -> Result:
    """Ask for the smallest model that is no worse at all."""
    return optimize(model, data, Compact(gate=SAME), options(**chosen), output=output, dry_run=dry_run)


def test_compact_finds_the_true_rank(tmp_path: Path):
    model = low_rank_mlp()
    result = compacted(model, labelled(model, 150, 1), tmp_path / "out.onnx")
    assert result, result.reason
    ranks = {c.weight: c.option.ranks[0] for c in result.plan.factored}
    assert ranks.keys() == {"fc0", "fc1", "fc2"}
    assert all(ranks[name] <= true for name, true in (("fc0", 3), ("fc1", 5), ("fc2", 2)))
    assert result.verdict.passed
    assert result.verdict.drop.estimate <= 0.0
    saved = load(tmp_path / "out.onnx")
    assert content_hash(saved) == content_hash(result.model)
    assert result.after.parameters == elements(saved) < 0.35 * result.before.parameters
    assert result.before.parameters == elements(model)
    assert result.after.bytes == (tmp_path / "out.onnx").stat().st_size
    assert result.output == tmp_path / "out.onnx"


def test_compact_with_a_strict_distance_takes_exactly_the_true_ranks():
    """Nothing may be lost but rounding, so no rank may be missing; and none is to spare."""
    model = low_rank_mlp()
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, {"x": normal([150, 24], 1)}, goal, options(metric="relative-l2"))
    assert result, result.reason
    assert {c.weight: c.option.ranks for c in result.plan.factored} == {"fc0": (3,), "fc1": (5,), "fc2": (2,)}


def test_a_convnet_with_constant_weights_ends_small(tmp_path: Path):
    model = convnet([4, 16, 16], [3, 4], 5, 3)
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(model, images(40, 1), goal, options(metric="relative-l2"), output=tmp_path / "c.onnx")
    assert result, result.reason
    ranks = {c.weight: (c.option.scheme, c.option.ranks[0]) for c in result.plan.factored}
    assert ranks["k0"][1] <= 3
    assert ranks["k1"] == ("kernel-first", 4)
    assert not [
        n for n in load(tmp_path / "c.onnx").graph.node if n.op_type == "Constant" and n.output[0] in ("k0", "k1")
    ]
    assert result.after.parameters == elements(result.model)
    assert result.after.macs < result.before.macs


def test_the_saved_model_says_where_it_comes_from():
    model = low_rank_mlp()
    model.doc_string = "kept"
    result = compacted(model, labelled(model, 100, 1), seed=5)
    props = {p.key: p.value for p in result.model.metadata_props}
    assert f'"source_sha256": "{content_hash(model)}"' in props["onnx_lowrank"]
    assert '"algorithm": "compact"' in props["onnx_lowrank"]
    assert '"seed": 5' in props["onnx_lowrank"]
    assert result.model.doc_string == "kept"
    assert (result.model.graph.input, result.model.graph.output) == (model.graph.input, model.graph.output)


def full_rank_noise() -> onnx.ModelProto:
    """Orthogonal weights: every direction matters as much as any other."""
    weights = {f"W{i}": np.linalg.qr(normal([16, 16], i))[0].astype(np.float32) for i in range(2)}
    nodes = [
        node("MatMul", ["x", "W0"], ["h"], "one"), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "W1"], ["y"], "two")
    ]  # fmt: skip
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 16])], weights)


def test_full_rank_noise_ends_unchanged_and_nothing_is_written(tmp_path: Path):
    model = full_rank_noise()
    result = compacted(model, labelled(model, 200, 2), tmp_path / "out.onnx")
    assert not result
    assert "plans passed; the nearest: top1 is worse" in result.reason
    assert result.model == model
    assert result.after == result.before
    assert (result.plan, result.verdict, result.output) == (None, None, None)
    assert result.trials
    assert not any(trial.verdict.passed for trial in result.trials)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelError, match="nothing to save"):
        result.save(tmp_path / "out.onnx")


NET = convnet([4, 16, 16], [None, None], 5, 3)


def shrunk(goal: Lossless, output: Path | None = None, **chosen: object) -> Result:
    return optimize(NET, images(40, 1), goal, options(metric="relative-l2", **chosen), output=output)


def achieved(goal: Lossless, path: Path) -> float:
    """Run it and return the share (or bytes) really reached, counted in the file."""
    result = shrunk(goal, path)
    assert result, result.reason
    if goal.keep is not None:
        assert result.after.parameters == elements(load(path))
        return elements(load(path)) / elements(NET)
    if goal.target_size is not None:
        assert result.after.bytes == path.stat().st_size
        return path.stat().st_size
    comparison = compare(NET, path, images(4, 9), LOOSE, options(metric="relative-l2"))
    assert comparison.after.macs == pytest.approx(result.after.macs)
    return comparison.after.macs / comparison.before.macs


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["keep", "target_macs"])
def test_lossless_stays_within_its_share(kind: str, share: float, tmp_path: Path):
    got = achieved(Lossless(**{kind: share, "gate": LOOSE}), tmp_path / "m.onnx")
    assert share - 0.12 < got <= share


@pytest.mark.parametrize("size", [9_500, 14_000])
def test_lossless_stays_within_its_bytes(size: int, tmp_path: Path):
    assert achieved(Lossless(target_size=size, gate=LOOSE), tmp_path / "m.onnx") <= size


@pytest.mark.parametrize("kind", ["keep", "target_macs", "target_size"])
def test_an_unreachable_budget_names_the_smallest_and_that_works(kind: str, tmp_path: Path):
    goal = Lossless(**{kind: 10 if kind == "target_size" else 0.01, "gate": LOOSE})
    with pytest.raises(GoalError, match="cannot be reached: the smallest") as caught:
        shrunk(goal, tmp_path / "m.onnx", rank_multiple=2)
    assert list(tmp_path.iterdir()) == []
    text = str(caught.value).split(" is ")[1].split(";")[0].removesuffix(" bytes").replace(",", "")
    named = int(text) if kind == "target_size" else float(text)
    result = shrunk(replace(goal, **{kind: named}), tmp_path / "m.onnx", rank_multiple=2)
    assert result, result.reason
    if kind == "keep":
        assert elements(load(tmp_path / "m.onnx")) / elements(NET) <= named
        with pytest.raises(GoalError, match="cannot be reached"):
            shrunk(replace(goal, keep=named - 0.002), rank_multiple=2)


def test_all_of_it_is_the_original_or_smaller():
    """A budget that the original meets is no reason to call the original a smaller model."""
    result = optimize(full_rank_noise(), {"x": normal([60, 16], 1)}, Lossless(keep=1.0, gate=Gate(max_drop=1e-6,
                      observed=True)), options(metric="relative-l2"))  # fmt: skip
    assert not result
    assert result.after == result.before


def test_where_every_input_is_zero_nothing_can_be_asked_for():
    model = linear(weight((8, 8), 1), bias=normal([8], 1))
    zeros = [{"x": np.zeros((1, 8), np.float32)} for _ in range(10)] + [{"x": np.full((1, 8), 0, np.float32)}]
    sources = DataSources(data=zeros, validation=[{"x": normal([1, 8], i)} for i in range(4)])
    result = optimize(model, sources, Compact(gate=Gate(max_drop=0.5, observed=True)), options(metric="relative-l2"))
    assert not result
    assert [s.why for s in result.skips if s.weight == "W"] == [Why.UNREACHED]
    result = optimize(model, sources, Lossless(keep=0.5, gate=LOOSE), options(metric="relative-l2"))
    assert not result
    assert "by these calibration samples: the only weight is not reached by the data" in result.reason


def fail_from_disk(monkeypatch: pytest.MonkeyPatch, times: float) -> list[object]:
    """Let the first `times` models fail when they are judged from their files; return a list that gets every call."""
    real, calls = confirm_module.reopen, []

    def reopen(*args):
        reloaded, notes = real(*args)
        calls.append(args)
        failed = replace(reloaded.verdict, word="failed", reason="not from disk")
        return (replace(reloaded, verdict=failed) if len(calls) <= times else reloaded), notes

    monkeypatch.setattr(confirm_module, "reopen", reopen)
    return calls


def test_what_passes_in_memory_but_not_from_disk_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = low_rank_mlp()
    fail_from_disk(monkeypatch, math.inf)
    result = compacted(model, labelled(model, 100, 1), tmp_path / "out.onnx")
    assert any(trial.verdict.passed for trial in result.trials)
    assert not result
    assert list(tmp_path.iterdir()) == []
    assert any("passed in memory but not from its file" in note for note in result.notes)


def test_the_next_best_is_published_where_the_best_fails_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = low_rank_mlp()
    calls = fail_from_disk(monkeypatch, 1)
    result = compacted(model, labelled(model, 100, 1), tmp_path / "out.onnx")
    assert result
    assert len(calls) == 2
    costs = sorted(t.plan.cost.parameters for t in result.trials if t.verdict.passed)
    assert result.plan.cost.parameters >= costs[0]
    assert result.plan is not min((t for t in result.trials if t.verdict), key=lambda t: t.plan.cost.parameters).plan
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("where", ["reopen", "interleaved", "checked", "rewrite", "publish"])
def test_an_exception_in_the_middle_leaves_nothing(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> object:
        raise ZeroDivisionError(where)

    elsewhere = {"interleaved": "speed_goal", "rewrite": "search"}
    if where in elsewhere:
        monkeypatch.setattr(importlib.import_module(f"onnx_lowrank.pipeline.{elsewhere[where]}"), where, broken)
    elif where == "checked":
        monkeypatch.setattr("onnx_lowrank.sensitivity.gradient_mode.checked", broken)
    elif where == "publish":
        monkeypatch.setattr("onnx_lowrank.graph.model_io.os.replace", broken)
    else:
        monkeypatch.setattr(confirm_module, where, broken)
    (tmp_path / "out.onnx").write_bytes(b"an older model")
    model = low_rank_mlp()
    with pytest.raises(ZeroDivisionError, match=where):
        compacted(model, labelled(model, 100, 1), tmp_path / "out.onnx")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.onnx", b"an older model")]


def test_a_dry_run_writes_nothing(tmp_path: Path):
    model = low_rank_mlp()
    result = compacted(model, labelled(model, 100, 1), tmp_path / "o.onnx", dry_run=True)
    assert result
    assert result.output is None
    assert list(tmp_path.iterdir()) == []
    result.save(tmp_path / "later.onnx")
    assert content_hash(load(tmp_path / "later.onnx")) == content_hash(result.model)


def test_a_dry_run_needs_no_place_to_write(tmp_path: Path):
    model = low_rank_mlp()
    target = tmp_path / "missing" / "o.onnx"
    assert compacted(model, labelled(model, 60, 1), target, dry_run=True)


def test_a_place_that_cannot_be_written(tmp_path: Path):
    model = low_rank_mlp()
    with pytest.raises(ModelError, match=r"cannot write to .*missing"):
        compacted(model, labelled(model, 60, 1), tmp_path / "missing" / "o.onnx")
    assert list(tmp_path.iterdir()) == []


def with_log(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a Log at the end: NaN for every negative score."""
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(node("Log", ["scores"], ["y"], "log"))
    return model


def test_a_model_that_gives_nan_is_not_called_lossless(tmp_path: Path):
    model = with_log(low_rank_mlp())
    data = {"x": normal([60, 24], 1), "labels": np.zeros((60, 6), np.float32)}
    goal = Compact(gate=Gate(max_drop=1.0, observed=True))
    with pytest.raises(MetricError, match="mse of the original is not a finite number: output 'y' has NaN or Inf"):
        optimize(model, data, goal, options(metric="mse"), output=tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_distance_over_the_finite_elements_of_a_model_that_gives_nan_says_so():
    """Where the original is not finite there is no distance; a candidate with NaN elsewhere fails."""
    model, x = with_log(low_rank_mlp()), normal([60, 24], 1)
    result = optimize(
        model,
        {"x": x},
        Compact(gate=Gate(max_drop=1.0, observed=True)),
        options(metric="relative-l2", sensitivity="inputs"),
    )
    assert any("has NaN or Inf in" in trial.verdict.reason for trial in result.trials if not trial.verdict.passed)
    assert result
    assert any("the original itself gives NaN or Inf in 12 of 12 samples" in note for note in result.verdict.notes)
    validated = x[np.isfinite(run(model, {"x": x})["y"]).any(1)]
    before, after = (run(m, {"x": validated})["y"] for m in (model, result.model))
    assert (np.isnan(before) & np.isnan(after)).mean() == pytest.approx(np.isnan(before).mean(), abs=0.01)


def test_a_candidate_that_gives_nan_fails_where_the_original_is_finite(tmp_path: Path):
    """The root of what is never negative, and is after truncation: NaN only in the candidate, at any gate."""
    W = (normal([16, 16], 3) > 0).astype(np.float32)
    nodes = [node("MatMul", ["x", "W"], ["h"], "fc"), node("Sqrt", ["h"], ["y"], "root")]
    model = build(nodes, [value("x", ["n", 16])], [value("y", ["n", 16])], {"W": W})
    x = np.tile(np.eye(16, dtype=np.float32), (4, 1)) * np.linspace(1, 2, 64, dtype=np.float32)[:, None]
    goal = Compact(gate=Gate(max_drop=1e9, observed=True))
    # ranks of 4 alone; and the root's gradient at 0 is not finite
    chosen = options(metric="relative-l2", sensitivity="inputs", rank_multiple=4)
    result = optimize(model, {"x": x}, goal, chosen, output=tmp_path / "o.onnx")
    assert not result
    assert result.trials
    assert "NaN or Inf" in result.reason
    assert list(tmp_path.iterdir()) == []


def test_no_weight_to_factor_is_a_clear_no(tmp_path: Path):
    model = build([node("Relu", ["x"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])], {})
    result = compacted(model, {"x": normal([10, 4], 0)}, tmp_path / "o.onnx")
    assert not result
    assert "no weight of this model can be factored" in result.reason
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_one_layer_goes_the_whole_way():
    model = linear(weight((16, 16), 1, rank=2))
    result = optimize(model, {"x": normal([40, 16], 1)}, Compact(gate=Gate(max_drop=1e-4, observed=True)),
                      options(metric="relative-l2"))  # fmt: skip
    assert [c.option.ranks for c in result.plan.factored] == [(2,)]


def test_external_data_and_a_test_set(tmp_path: Path):
    model = low_rank_mlp()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = low_rank_mlp()
    sources = DataSources(data=labelled(model, 80, 1), validation=labelled(model, 60, 2), test=labelled(model, 50, 3))
    result = compacted(tmp_path / "m.onnx", sources, tmp_path / "out.onnx")
    assert result
    assert result.original.sha256 == content_hash(model)
    assert (result.verdict.samples, result.test.samples) == (60, 50)
    assert result.before.bytes == sum((tmp_path / n).stat().st_size for n in ("m.onnx", "w.bin"))


# apply, compare, inspect


def saved_plan(model: onnx.ModelProto, **changes: object) -> SavedPlan:
    plan = SavedPlan(content_hash(model), "weights", 0, 1, (SavedChoice("h0", "fc0", (32, 24), "svd", (3,)),))
    return replace(plan, **changes)


def test_apply_needs_the_same_model_and_its_data(tmp_path: Path):
    model = low_rank_mlp()
    given = (tmp_path / "o.onnx",)
    with pytest.raises(PlanError, match="made for another model"):
        apply(saved_plan(model), mlp([24, 32, 32, 6], [3, 5, 2], 12), output=given[0])
    with pytest.raises(DataError, match="give the calibration samples with --data"):
        apply(saved_plan(model, sensitivity="inputs"), model, output=given[0])
    choice = SavedChoice("h0", "fc0", (32, 24), "svd", (3,))
    for bad, says in (
        (replace(choice, shape=(24, 32)), r"of shape \(24, 32\), and the model has \(32, 24\)"),
        (replace(choice, weight="nobody"), "'nobody' .* the model has no such weight"),
        (replace(choice, scheme="tucker"), "by 'tucker', which is not possible"),
        (replace(choice, ranks=(0,)), "rank 0"),
        (replace(choice, ranks=(500,)), "rank 500"),
        (replace(choice, ranks=(-3,)), "rank -3"),
    ):
        with pytest.raises(PlanError, match=says):
            apply(saved_plan(model, choices=(bad,)), model, output=given[0])
    assert list(tmp_path.iterdir()) == []
    changed = apply(saved_plan(model), model, output=given[0])
    assert elements(changed) == elements(model) - 32 * 24 + 3 * 56
    assert content_hash(load(given[0])) == content_hash(changed)


def test_compare_is_the_judge_of_any_two_models():
    model = low_rank_mlp()
    data = labelled(model, 60, 4)
    same = compare(model, model, data, SAME, options())
    assert same
    assert (same.verdict.drop.estimate, same.before) == (0.0, same.after)
    worse = compare(model, mlp([24, 32, 32, 6], [3, 5, 2], 12), data, SAME, options())
    assert not worse
    assert "top1 is worse" in worse.verdict.reason
    other = build([node("Relu", ["z"], ["y"])], [value("z", ["n", 24])], [value("y", ["n", 24])], {})
    with pytest.raises(ModelError, match="the models differ in their inputs"):
        compare(model, other, data, SAME, options())


def test_an_older_plan_is_repeated_with_plain_factors(tmp_path: Path):
    """It says nothing of identity blocks; a plan of today does, and gives the same product with fewer numbers."""
    model = low_rank_mlp()
    old = SavedPlan(content_hash(model), "weights", 0, 8, (SavedChoice("h0", "fc0", (32, 24), "svd", (6,)),))
    assert "interpolative" not in old.to_json()
    new = replace(old, choices=(replace(old.choices[0], interpolative=True),))
    sizes, outputs = [], []
    for plan in (old, new):
        (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
        made = apply(tmp_path / "plan.json", model)
        sizes.append(elements(model) - elements(made))
        outputs.append(run(made, {"x": normal([5, 24], 1)})["y"])
        assert ("Concat" in {each.op_type for each in made.graph.node}) == (plan is new)
    assert sizes == [32 * 24 - 6 * (32 + 24), 32 * 24 - 6 * (32 + 24 - 6)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_a_kernel_on_one_channel_that_the_graph_makes():
    """No scheme projects a single input, and a chain is scored through it all the same."""
    nodes = [
        node("Sub", ["x", "c"], ["s"]), node("Conv", ["s", "W"], ["h"], pads=[2, 2, 2, 2]), node("Relu", ["h"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "U"], ["y"]),
    ]  # fmt: skip
    weights = {"c": np.full(1, 0.1, np.float32), "W": weight((16, 1, 5, 5), 1), "U": weight((16, 10), 2)}
    model = build(nodes, [value("x", ["n", 1, 9, 9])], [value("y", ["n", 10])], weights)
    goal = Lossless(keep=0.7, gate=Gate(max_drop=1.0, observed=True))
    result = optimize(model, {"x": normal([200, 1, 9, 9], 3)}, goal, options(metric="relative-l2"))
    assert result, result.reason
    assert "W" in {choice.weight for choice in result.plan.factored}


def test_inspect_tells_where_a_rank_breaks_even():
    """A matrix for every slice stores its identities: there is no axis along which rows of all slices lie."""
    model = build([node("MatMul", ["x", "W"], ["y"])], [value("x", [3, 4, 8])], [value("y", [3, 4, 8])],
                  {"W": weight((3, 8, 8), 1)})  # fmt: skip
    (row,) = inspect(model, rank_multiple=1).rows
    assert (row.break_even, row.full_rank) == (4.0, 8)


def test_inspect_sees_low_rank_without_data():
    seen = inspect(low_rank_mlp(), rank_multiple=1)
    rows = {row.site.weight: row for row in seen.rows}
    assert [row.site.weight for row in seen.rows] == ["fc1", "fc0", "fc2"]
    assert all(rows[name].rank_for[0.99] <= rank for name, rank in (("fc0", 3), ("fc1", 5), ("fc2", 2)))
    assert all(row.rank_for[0.9] <= row.rank_for[0.99] <= row.full_rank for row in seen.rows)
    assert all(row.break_even is None for row in seen.rows), "every rank saves"
    assert seen.share == pytest.approx(1 - 70 / elements(low_rank_mlp()))
    assert {skip.why for skip in seen.skips} == {Why.ELEMENTWISE}
