"""Siblings on the whole way: one first factor wins where weights share a row space, and only there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import chained, elements, halved, normal, options, run, shared_inputs
from click.testing import CliRunner
from rich.console import Console

from onnx_lowrank import Compact, Gate, Lossless, PlanError, apply, inspect, optimize
from onnx_lowrank.cli import main
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.latency import stopwatch
from onnx_lowrank.latency.measure import Group
from onnx_lowrank.pipeline import Session, meet_goal
from onnx_lowrank.report import inspection_json, render_inspection, render_result, result_json
from onnx_lowrank.results.saved_plan import SavedPlan, read_plan
from onnx_lowrank.types import SHARED

WIDTH, RANK = 32, 12
X = normal([240, WIDTH], 1)
GOAL = Lossless(keep=0.65, gate=Gate(max_drop=1.0, observed=True))
SENSITIVITIES = ("joint", "inputs", "weights")


def one_row_space() -> onnx.ModelProto:
    """Three weights of rank 12 that read one input through the same 12 directions.

    Together 12 · (4 · 32 − 12) numbers, alone 3 · 12 · (64 − 12).
    """
    return shared_inputs(WIDTH, [WIDTH] * 3, rank=RANK, together=True)


def own_row_spaces() -> onnx.ModelProto:
    """The same, each through directions of its own: together they need all 32."""
    return shared_inputs(WIDTH, [WIDTH] * 3, rank=RANK, together=False)


def shared_in(result) -> set[str]:
    return {choice.weight for choice in result.plan.choices if choice.option.scheme == SHARED}


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_one_first_factor_wins_where_the_weights_share_a_row_space(sensitivity: str):
    model = one_row_space()
    asked = options(sensitivity=sensitivity, metric="relative-l2")
    together, alone = (optimize(model, {"x": X}, GOAL, replace(asked, shared_input=on)) for on in (True, False))
    assert together, together.reason
    assert shared_in(together) == {"W0", "W1", "W2"}
    assert shared_in(alone) == set()
    assert together.verdict.drop.estimate < 1e-4 < 0.01 < alone.verdict.drop.estimate
    assert together.plan.loss < 1e-4 * alone.plan.loss
    assert max(together.after.parameters, alone.after.parameters) <= 0.65 * together.before.parameters
    assert together.after.parameters == elements(together.model)
    own = sum(int(np.prod(site.shape)) for site in together.sites if site.weight not in shared_in(together))
    (rank,) = {c.option.ranks[0] for c in together.plan.factored if c.weight in shared_in(together)}
    assert rank >= RANK
    assert together.plan.cost.parameters == rank * (4 * WIDTH - rank) + own, "the first factor is counted once"
    assert together.after.macs == together.after.parameters, "and computed once"


@pytest.mark.parametrize("sensitivity", SENSITIVITIES)
def test_it_is_not_taken_where_every_weight_has_its_own(sensitivity: str):
    asked = options(sensitivity=sensitivity, metric="relative-l2")
    goal = Lossless(keep=0.69, gate=Gate(max_drop=1.0, observed=True))
    result = optimize(own_row_spaces(), {"x": X}, goal, asked)
    assert result, result.reason
    assert shared_in(result) == set()
    assert {c.weight: c.option.ranks for c in result.plan.factored} == {f"W{i}": (RANK,) for i in range(3)}
    each = [c.option.cost.parameters for c in result.plan.factored]
    assert each == [RANK * (2 * WIDTH - RANK)] * 3
    assert result.verdict.drop.estimate < 1e-4


def test_compact_finds_the_rank_that_all_share():
    goal = Compact(gate=Gate(max_drop=1e-4, observed=True))
    result = optimize(one_row_space(), {"x": X}, goal, options(metric="relative-l2"))
    assert result, result.reason
    taken = {c.weight: (c.option.scheme, c.option.ranks) for c in result.plan.factored}
    assert taken == {f"W{i}": (SHARED, (RANK,)) for i in range(3)}


@pytest.mark.parametrize(
    "goal", [Lossless(target_macs=0.65, gate=GOAL.gate), Lossless(target_size=17_000, gate=GOAL.gate)]
)
def test_it_is_chosen_in_other_resources(goal: Lossless):
    model = one_row_space()
    result = optimize(model, {"x": X}, goal, options(metric="relative-l2"))
    assert result, result.reason
    assert shared_in(result) == {"W0", "W1", "W2"}
    assert result.verdict.drop.estimate < 1e-4


@pytest.mark.parametrize("changes", [{}, {"sensitivity": "inputs"}, {"sensitivity": "weights"}, {"refit": True}])
def test_a_saved_plan_gives_the_same_model(tmp_path: Path, changes: dict[str, object]):
    model, asked = one_row_space(), options(**changes)
    session = Session.of(model, {"x": X}, asked)
    result = meet_goal(session, GOAL)
    assert shared_in(result) == {"W0", "W1", "W2"}
    saved = SavedPlan.of_result(result, "test")
    (tmp_path / "plan.json").write_text(saved.to_json())
    assert read_plan(tmp_path / "plan.json") == saved
    assert {choice.shared_input for choice in saved.choices} == {("h0", "h1", "h2")}
    again = apply(tmp_path / "plan.json", model, {"x": X}, options())
    assert [t.name for t in again.graph.initializer] == [t.name for t in result.model.graph.initializer]
    for one, other in zip(again.graph.initializer, result.model.graph.initializer, strict=True):
        assert one == other


def test_a_plan_that_tears_siblings_apart_or_names_others_is_refused():
    model = one_row_space()
    result = optimize(model, {"x": X}, GOAL, options(sensitivity="weights"))
    saved = SavedPlan.of_result(result, "test")
    with pytest.raises(PlanError, match="'W0' by 'shared', which is not possible here"):
        apply(replace(saved, choices=tuple(c for c in saved.choices if c.weight != "W1")), model)
    others = tuple(replace(c, shared_input=("h0", "h1")) for c in saved.choices)
    with pytest.raises(PlanError, match="another shared input than it has here"):
        apply(replace(saved, choices=others), model)
    odd = tuple(replace(c, ranks=(999,)) for c in saved.choices)
    with pytest.raises(PlanError, match="rank 999, which is none of those that save"):
        apply(replace(saved, choices=odd), model)


def test_half_precision_shares_its_first_factor_too():
    model = halved(one_row_space())
    result = optimize(model, {"x": X.astype(np.float16)}, GOAL, options(metric="relative-l2"))
    assert result, result.reason
    assert shared_in(result) == {"W0", "W1", "W2"}
    kinds = {t.data_type for t in result.model.graph.initializer}
    assert kinds - {onnx.TensorProto.INT64} == {onnx.TensorProto.FLOAT16}, "orders are whole numbers"
    assert result.verdict.drop.estimate < 1e-3


def test_inter_layer_terms_and_the_signed_one_go_with_families():
    labels = run(one_row_space(), {"x": X})["y"].argmax(1)
    for changes in ({"inter_layer": True}, {"signed": True}):
        result = optimize(one_row_space(), {"x": X, "labels": labels}, GOAL, options(**changes))
        assert result, result.reason
        assert shared_in(result) == {"W0", "W1", "W2"}


@pytest.mark.parametrize("changes", [{"continuation": 2}, {"sensitivity": "paper"}, {"shared_input": False}])
def test_where_siblings_do_not_share(changes: dict[str, object]):
    labels = run(one_row_space(), {"x": X})["y"].argmax(1)
    asked = options(gamma=0.9, **changes)
    result = optimize(one_row_space(), {"x": X, "labels": labels}, GOAL, asked)
    assert all(not option.shared_input for curve in result.curves for option in curve.options)


def text_of(renderables: Iterable[object]) -> str:
    console = Console(width=80, file=io.StringIO())
    for each in renderables:
        console.print(each)
    return console.file.getvalue()


def test_reports_name_the_family():
    result = optimize(one_row_space(), {"x": X}, GOAL, options())
    text = text_of(render_result(result))
    assert text.count("shared #1") == 4  # three weights and the legend
    assert "one first factor for all weights of this number" in text
    choices = [c for c in json.loads(result_json(result))["plan"]["choices"] if c["option"]["scheme"] == SHARED]
    assert [c["option"]["shared_input"] for c in choices] == [["h0", "h1", "h2"]] * 3
    kept = [c["option"]["cost"]["parameters"] for c in choices]
    ((rank,),) = {tuple(c["option"]["ranks"]) for c in choices}
    assert rank >= RANK
    assert kept == [rank * (2 * WIDTH - rank), rank * WIDTH, rank * WIDTH]


def test_inspect_numbers_what_reads_the_same_tensor():
    inspection = inspect(one_row_space(), rank_multiple=1)
    text = text_of(render_inspection(inspection))
    assert text.count("#1") == 3
    assert "weights of one number read the same tensor" in text
    assert json.loads(inspection_json(inspection))["shared_inputs"][0]["members"] == ["h0", "h1", "h2"]


def test_the_command_line_turns_it_off(tmp_path: Path):
    onnx.save(one_row_space(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    common = ["optimize", str(tmp_path / "m.onnx"), "--data", str(tmp_path / "x.npz"), "--algorithm", "lossless"]
    common += ["--keep", "0.65", "--observed", "--max-drop", "1", "--threads", "1", "--rank-multiple", "4", "--force"]
    on, off = (CliRunner().invoke(main, [*common, *extra]) for extra in ((), ("--no-shared-input",)))
    assert (on.exit_code, off.exit_code) == (0, 0), on.output
    assert "shared #1" in on.output
    assert "shared" not in off.output


def test_time_is_measured_of_all_siblings_together(monkeypatch: pytest.MonkeyPatch):
    """A chain takes its share of the parameters; the first factor is in it once."""
    scenes = []

    def group(original, feed, scene, chains, scheme, runtime):
        scenes.append(scene)
        whole = sum(scene.captured[weight].size for weight in scene.weights)
        return Group(0.1 * len(scene.weights), tuple(chained(of_calls) / whole for of_calls in chains), 0.01)

    monkeypatch.setattr(stopwatch, "measure_group", group)
    monkeypatch.setattr(stopwatch, "scale_of", lambda *_: 1.0)
    session = Session.of(one_row_space(), {"x": X}, options(metric="relative-l2"))
    session.collect(session.metric(GOAL.gate)[0])
    problem = session.problem("latency")
    assert sorted(len(scene.weights) for scene in scenes)[-1] == 3
    plan = problem.best(problem.dense * 0.6, "")
    taken = [c.option.cost for c in plan.choices if c.option.shared_input]
    assert len(taken) == 3
    (rank,) = {c.option.ranks[0] for c in plan.choices if c.option.shared_input}
    share = rank * (4 * WIDTH - rank) / (3 * WIDTH * WIDTH)
    assert sum(cost.milliseconds for cost in taken) == pytest.approx(3 * 0.1 * 10.0 * share, rel=1e-6)


def test_the_model_is_the_same_on_every_run():
    first, second = (optimize(one_row_space(), {"x": X}, GOAL, options()) for _ in range(2))
    assert content_hash(first.model) == content_hash(second.model)
