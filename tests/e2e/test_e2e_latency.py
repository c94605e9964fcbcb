"""Goals of latency on a small model. All times are the tests' own: no decision here depends on the machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import chained, mlp, run
from click.testing import CliRunner

from onnx_lowrank import (
    Compact,
    DataSources,
    Gate,
    GoalError,
    Lossless,
    Options,
    SavedPlan,
    Session,
    apply,
    optimize,
    pareto,
)
from onnx_lowrank.cli import main
from onnx_lowrank.latency import stopwatch
from onnx_lowrank.latency.measure import Group
from onnx_lowrank.options import Runtime
from onnx_lowrank.pipeline import speed_goal as speed
from onnx_lowrank.report import render_result, result_json
from onnx_lowrank.runtime.timing import Timing
from onnx_lowrank.types import DENSE as WHOLE
from onnx_lowrank.types import OWN, Array, Interval

GATE = Gate(max_drop=0.5, observed=True)
OPTIONS = Options(runtime=Runtime(threads=1, provider="cpu"), sensitivity="inputs", metric="cosine")
DENSE = 0.3
"""Share of the original's time that each of the three weights takes."""


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """Of full rank: every rank loses something, so there are many plans to choose from."""
    return mlp([32, 64, 64, 32], [None, None, None], 0)


@pytest.fixture(scope="module")
def samples(model: onnx.ModelProto) -> DataSources:
    rng = np.random.default_rng(0)

    def draw(count: int) -> dict[str, Array]:
        return {"x": rng.standard_normal((count, 32)).astype(np.float32)}

    return DataSources(data=draw(48), validation=draw(40), test=draw(24))


@dataclass
class Times:
    """What the machine would say: a chain's time is `chain(share of the parameters)` of its node's, in integers of that
    `integers`."""

    chain: Callable[[float], float] = lambda share: share
    ratios: Sequence[float] = ()
    integers: float = 1.0
    last: int = 0

    def group(self, original: Any, feed: Any, scene: Any, chains: Any, form: Any, runtime: Any) -> Group:
        whole = sum(scene.captured[weight].size for weight in scene.weights)
        sizes = [chained(of_calls) / whole for of_calls in chains]
        faster = self.integers if form.storage != OWN else 1.0
        return Group(DENSE, tuple(faster * self.chain(float(size)) for size in sizes), 0.01)

    def interleaved(self, *_: Any, **settings: Any) -> Timing:
        ratio = self.ratios[min(self.last, len(self.ratios) - 1)]
        self.last += 1
        return Timing(10.0, 10.0 * ratio, Interval(ratio, ratio - 0.01, ratio + 0.01, 0.95), 100)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Times]:
    def make(**about: Any) -> Times:
        times = Times(**about)
        monkeypatch.setattr(stopwatch, "measure_group", times.group)
        monkeypatch.setattr(stopwatch, "scale_of", lambda *_: 1.0)
        monkeypatch.setattr(speed, "interleaved", times.interleaved)
        return times

    return make


def predicted(result: Any) -> float:
    """The time of a plan by the test's own rule."""
    saved = sum(
        DENSE * (1 - choice.option.cost.parameters / site.parameters)
        for choice in result.plan.choices
        for site in result.sites
        if site.id == choice.site
    )
    return 1 - saved


def test_a_target_latency_is_kept_in_milliseconds(model: onnx.ModelProto, samples: DataSources, machine: Any) -> None:
    machine(ratios=[0.6])
    result = optimize(model, samples, Lossless(target_latency=0.7, gate=GATE), OPTIONS)
    assert result.changed, result.reason
    assert result.before.milliseconds == pytest.approx(10.0)
    assert result.predicted_ratio == pytest.approx(predicted(result), rel=1e-6)
    assert 0.4 < predicted(result) <= 0.7
    report = json.loads(result_json(result))
    assert report["predicted_latency_ratio"] == pytest.approx(result.predicted_ratio)
    assert report["latency"]["ratio"]["estimate"] == 0.6
    assert all(o["milliseconds"] > 0 for site in report["sensitivity"] for o in site["options"])
    text = "\n".join(str(part) for part in render_result(result))
    assert "time: 1.67 times as fast [1.64, 1.69]" in text
    assert "of the original's, measured 0.600" in text


@pytest.mark.parametrize(("keep", "latency"), [(0.4, 0.9), (0.9, 0.5), (0.5, 0.55)])
def test_a_size_and_a_time_are_both_kept(
    model: onnx.ModelProto, samples: DataSources, machine: Any, keep: float, latency: float
) -> None:
    """Chains that save parameters are slow here, so neither budget follows from the other."""
    machine(ratios=[latency], chain=lambda share: 0.2 + 0.8 * share**3)
    result = optimize(model, samples, Lossless(keep=keep, target_latency=latency, gate=GATE), OPTIONS)
    assert result.changed, result.reason
    assert result.after.parameters <= keep * result.before.parameters
    assert result.after.milliseconds <= latency * result.before.milliseconds


def test_two_budgets_that_cannot_be_kept_are_refused(
    model: onnx.ModelProto, samples: DataSources, machine: Any
) -> None:
    machine(ratios=[0.9], chain=lambda share: 0.8)
    with pytest.raises(GoalError, match=r"--target-latency 0\.3 cannot be reached"):
        optimize(model, samples, Lossless(keep=0.9, target_latency=0.3, gate=GATE), OPTIONS)
    with pytest.raises(GoalError, match=r"--keep 0\.01 cannot be reached"):
        optimize(model, samples, Lossless(keep=0.01, target_latency=0.9, gate=GATE), OPTIONS)
    for change, switch in (
        ({"sensitivity": "joint", "inter_layer": True}, "--inter-layer"),
        ({"sensitivity": "paper"}, "--sensitivity paper"),
    ):
        with pytest.raises(GoalError, match=f"{switch} knows one budget"):
            optimize(model, samples, Lossless(keep=0.8, target_latency=0.9, gate=GATE), replace(OPTIONS, **change))


def test_the_fastest_model_that_holds(model: onnx.ModelProto, samples: DataSources, machine: Any) -> None:
    machine(ratios=[0.5])
    result = optimize(model, samples, Compact(resource="latency", gate=GATE), OPTIONS)
    assert result.changed, result.reason
    passed = [trial for trial in result.trials if trial.verdict.passed]
    assert result.after.milliseconds == pytest.approx(min(t.size.milliseconds for t in passed))


@pytest.mark.parametrize(("ratio", "changed"), [(0.95, True), (0.975, False), (0.99, False), (1.2, False)])
def test_only_a_speed_up_that_is_shown_is_saved(
    model: onnx.ModelProto, samples: DataSources, machine: Any, tmp_path: Path, ratio: float, changed: bool
) -> None:
    """The interval is ± .01: its upper end must lie under 1 / 1.02 = .980."""
    times = machine(ratios=[ratio])
    goal = Compact(resource="latency", gate=GATE)
    result = optimize(model, samples, goal, OPTIONS, output=tmp_path / "o.onnx")
    assert result.changed is changed
    assert (tmp_path / "o.onnx").exists() is changed
    if not changed:
        assert f"it takes {ratio:.3f} [{ratio - 0.01:.3f}, {ratio + 0.01:.3f}] of the original's time" in result.reason
        assert "--min-speedup 1.02 allows 0.980" in result.reason
        assert times.last == sum(trial.verdict.passed for trial in result.trials)
        assert result.latency is not None
        assert result.latency.ratio.estimate == ratio
        assert result.test is None


def test_the_next_best_plan_takes_the_place_of_a_slow_one(
    model: onnx.ModelProto, samples: DataSources, machine: Any
) -> None:
    times = machine(ratios=[1.1, 0.6])
    result = optimize(model, samples, Compact(resource="latency", gate=GATE), OPTIONS)
    assert result.changed
    assert times.last == 2
    passed = sorted(t.size.milliseconds for t in result.trials if t.verdict.passed)
    assert result.after.milliseconds == pytest.approx(passed[1])


def test_a_missed_target_is_aimed_at_lower(model: onnx.ModelProto, samples: DataSources, machine: Any) -> None:
    """All plans for .7 are measured at .8: the next are made for .7 · .7 / .8."""
    machine(ratios=[0.6])
    plans = len(optimize(model, samples, Lossless(target_latency=0.7, gate=GATE), OPTIONS).trials)
    machine(ratios=[*[0.8] * plans, 0.69])
    result = optimize(model, samples, Lossless(target_latency=0.7, gate=GATE), OPTIONS)
    assert result.changed, result.reason
    assert result.predicted_ratio is not None
    assert result.predicted_ratio <= 0.7 * 0.7 / 0.8 + 1e-9


def test_a_target_that_is_never_met_says_what_was_measured(
    model: onnx.ModelProto, samples: DataSources, machine: Any
) -> None:
    machine(ratios=[0.9])
    result = optimize(model, samples, Lossless(target_latency=0.7, gate=GATE), OPTIONS)
    assert not result.changed
    assert "0.900 [0.890, 0.910] of the original's time, more than --target-latency 0.7" in result.reason


def test_an_unreachable_target_names_the_smallest(model: onnx.ModelProto, samples: DataSources, machine: Any) -> None:
    machine(ratios=[0.9])
    with pytest.raises(GoalError, match=r"smallest share of the original's time is 0\.\d+; ask for that"):
        optimize(model, samples, Lossless(target_latency=0.05, gate=GATE), OPTIONS)


def test_where_no_rank_is_faster_nothing_is_saved(model: onnx.ModelProto, samples: DataSources, machine: Any) -> None:
    machine(chain=lambda share: 1 + share, ratios=[0.5])
    result = optimize(model, samples, Compact(resource="latency", gate=GATE), OPTIONS)
    assert not result.changed
    assert result.reason.startswith("no weight gets faster")


@pytest.mark.parametrize(("ratio", "said"), [(1.1, "slower than the original"), (1.0, "as far as can be told")])
def test_a_size_goal_says_what_it_cost_in_time(
    model: onnx.ModelProto, samples: DataSources, machine: Any, ratio: float, said: str
) -> None:
    machine(ratios=[ratio])
    result = optimize(model, samples, Compact(gate=GATE), OPTIONS)
    assert result.changed
    assert result.predicted_ratio is None
    assert said in "\n".join(str(part) for part in render_result(result))
    refused = optimize(model, samples, Compact(gate=GATE, min_speedup=1.0), OPTIONS)
    assert not refused.changed
    assert "--min-speedup 1 allows" in refused.reason


@pytest.mark.parametrize("switch", [{"inter_layer": True}, {"signed": True}, {"continuation": 2}])
def test_what_the_switches_hold_stays_with_the_options_that_are_left(
    model: onnx.ModelProto, samples: DataSources, machine: Any, switch: dict[str, Any]
) -> None:
    machine(chain=lambda share: 1.5 * share, ratios=[0.5])
    options = Options(runtime=Runtime(threads=1, provider="cpu"), metric="cosine", **switch)
    goal = Lossless(target_latency=0.8, gate=GATE)
    if "signed" in switch:
        options = replace(options, metric=None, allow_weak_baseline=True)
        samples = replace(
            samples, **{name: labelled(getattr(samples, name)) for name in ("data", "validation", "test")}
        )
    result = optimize(model, samples, goal, options)
    assert result.changed, result.reason
    assert result.predicted_ratio is not None
    assert result.predicted_ratio <= 0.8 + 1e-9
    assert all(
        option.cost.milliseconds < curve.dense.cost.milliseconds
        for curve in result.curves
        for option in curve.options[1:]
    )


def labelled(data: dict[str, Array]) -> dict[str, Array]:
    return {**data, "labels": np.arange(len(data["x"])) % 32}


def test_the_curve_of_time_against_loss(model: onnx.ModelProto, samples: DataSources, machine: Any) -> None:
    machine(ratios=[0.5])
    points = pareto(Session.of(model, samples, OPTIONS), Compact(resource="latency", gate=GATE))
    times = [point.latency for point in points]
    assert times[0] == pytest.approx(1.0)
    assert times == sorted(times, reverse=True)  # type: ignore[type-var]


def test_on_the_command_line_a_model_that_is_not_faster_ends_with_3(
    model: onnx.ModelProto, samples: DataSources, machine: Any, tmp_path: Path
) -> None:
    onnx.save(model, str(tmp_path / "m.onnx"))
    for name, data in (("cal", samples.data), ("val", samples.validation)):
        np.savez(tmp_path / f"{name}.npz", **data)  # type: ignore[arg-type]
    given = ("optimize", tmp_path / "m.onnx", "--data", tmp_path / "cal.npz", "--validation", tmp_path / "val.npz")
    given += ("--sensitivity", "inputs", "--metric", "cosine", "--max-drop", 0.5, "--threads", 1)
    machine(ratios=[1.0])
    goal = ("--algorithm", "lossless", "--target-latency", 1)
    done = CliRunner().invoke(main, [str(a) for a in (*given, *goal)])
    assert done.exit_code == 3, done.output
    assert "NOTHING SAVED" in done.output
    assert "--min-speedup 1.02" in done.output
    assert not list(tmp_path.glob("*.lowrank.onnx"))
    machine(ratios=[0.7])
    done = CliRunner().invoke(main, [str(a) for a in (*given, "--minimize", "latency")])
    assert done.exit_code == 0, done.output
    assert "ratio predicted" in done.output
    saved = onnx.load(str(tmp_path / "m.lowrank.onnx"))
    assert run(saved, {"x": np.zeros((1, 32), np.float32)})["y"].shape == (1, 32)


BITS = Options(runtime=Runtime(threads=1, provider="cpu"), metric="cosine", bits=(8, 32))


@pytest.mark.parametrize("integers", [0.5, 2.0])
def test_integers_are_chosen_with_the_ranks_where_they_are_faster(
    model: onnx.ModelProto, samples: DataSources, machine: Any, tmp_path: Path, integers: float
) -> None:
    machine(ratios=[0.45], integers=integers)
    path, again = tmp_path / "fast.onnx", tmp_path / "again.onnx"
    result = optimize(model, samples, Lossless(target_latency=0.5, gate=GATE), BITS, output=path)
    assert result.changed, result.reason
    forms = [choice.option.form for choice in result.plan.choices]
    assert result.after.milliseconds <= 0.5 * result.before.milliseconds
    faster = {form.storage for form in forms}
    assert (faster == {"int8-dynamic"}) is (integers < 1)
    assert (faster == {OWN}) is (integers > 1)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert ("MatMulInteger" in kinds) is (integers < 1)
    if integers > 1:
        return
    assert any(form.scheme == WHOLE for form in forms)  # at half the time no rank has to go
    assert "int8-dynamic" in result_json(result)
    assert any("in integers with ranges found at every call" in note for note in result.notes)
    saved = SavedPlan.of_result(result)
    apply(saved, model, samples.data, BITS, validation=samples.validation, output=again)
    assert (onnx.load(str(path)).graph.SerializeToString()) == onnx.load(str(again)).graph.SerializeToString()


def test_a_plan_in_integers_is_small_as_well_and_says_so(
    model: onnx.ModelProto, samples: DataSources, machine: Any, tmp_path: Path
) -> None:
    """A time and a size beside it, in bytes of what is written."""
    machine(ratios=[0.45], integers=0.5)
    size = model.ByteSize() // 2
    goal = Lossless(target_latency=0.6, target_size=size, gate=GATE)
    result = optimize(model, samples, goal, BITS, output=tmp_path / "fast.onnx")
    assert result.changed, result.reason
    assert (tmp_path / "fast.onnx").stat().st_size == result.after.bytes <= size
