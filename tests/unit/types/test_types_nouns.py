"""types, options, linalg, saved_plan and result: what cannot exist, and what is refused with a line for the user."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import factored, linear, mlp, weight
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank import errors
from onnx_lowrank.errors import GoalError, LowRankError, ModelError, PlanError
from onnx_lowrank.numerics import linalg
from onnx_lowrank.options import Compact, Gate, Lossless, Options
from onnx_lowrank.results.result import Result, Size
from onnx_lowrank.results.saved_plan import SavedChoice, SavedPlan, read_plan
from onnx_lowrank.types import (
    Bound,
    Chain,
    Choice,
    Cost,
    Interval,
    Moments,
    Option,
    Plan,
    Site,
    Skip,
    Stage,
    Verdict,
    Why,
)

ARRAYS = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))


def test_every_error_is_of_one_family():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) == 7
    assert all(issubclass(error, LowRankError) for error in found)


def test_a_stage_cannot_have_a_kernel_it_does_not_own():
    Stage(np.zeros((2, 3, 3, 1)), (0,))
    with pytest.raises(ValueError, match="kernel 3 on axis 1"):
        Stage(np.zeros((2, 3, 1, 3)), (0,))
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        Stage(np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        Stage(np.zeros((2, 2))).weight[0, 0] = 1


def test_a_chain_fits_together():
    first, last = Stage(np.zeros((2, 5, 3)), (0,)), Stage(np.zeros((4, 2, 1)))
    assert Chain((first, last)).layout == (((2, 5, 3), (0,)), ((4, 2, 1), ()))
    with pytest.raises(ValueError, match="widths differ"):
        Chain((last, first))
    with pytest.raises(ValueError, match="owned by two"):
        Chain((Stage(np.zeros((2, 5, 3)), (0,)), Stage(np.zeros((4, 2, 3)), (0,))))


def test_nouns_are_frozen():
    site = Site("y", "fc", "MatMul", "W", (6, 4, 3, 3), ("y",))
    assert (site.parameters, site.break_even) == (216, 6 * 36 / 42)
    for noun, field in ((site, "shape"), (Skip("W", "n", "op", (2, 3), Why.SHAPE), "why"), (Options(), "seed")):
        with pytest.raises(FrozenInstanceError):
            setattr(noun, field, None)
    assert Skip("W", "n", "op", (2, 3), Why.SHAPE).parameters == 6
    assert Interval(0.0, -1.0, 2.0).width == 3.0


def test_costs_add_and_plans_sum_exactly():
    assert Cost(1, 2, 3.0, 0.5) + Cost(4, 5, 6.0, 0.75) - Cost(1, 1, 1.0, 0.25) == Cost(4, 6, 8.0, 1.0)
    tiny = [Choice(str(i), "w", Option("svd", (1,), Cost(), loss=0.1)) for i in range(10)]
    assert Plan(tuple(tiny)).loss == 1.0
    assert Plan(()).cost == Cost()


def test_patches_come_with_keys():
    broken = Moments(A=np.eye(2), patches=np.zeros((1, 2, 1)), room=1)
    with pytest.raises(ValueError, match="come with their keys"):
        broken + broken


def test_a_verdict_is_as_true_as_it_passed():
    interval = Interval(0.0, 0.0, 0.0)
    verdict = Verdict("certified", "top1", True, 3, interval, interval, interval, Bound(0.0, 0.95, "", True), 0.0)
    assert verdict
    assert not replace(verdict, word="failed")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gate(max_drop=-0.1, observed=True), "0 or more, not -0.1"),
        (lambda: Gate(max_drop=math.nan, observed=True), "0 or more, not nan"),
        (lambda: Gate(confidence=1.0), "between 0.5 and 1"),
        (lambda: Gate(confidence=0.4), "between 0.5 and 1"),
        (lambda: Lossless(), "exactly one of keep, target size and target MACs, or a target latency"),
        (lambda: Lossless(keep=0.5, target_macs=0.5), "exactly one of"),
        (lambda: Lossless(keep=0.0), "--keep is a share between 0 and 1, not 0"),
        (lambda: Lossless(keep=60), "--keep is a share between 0 and 1, not 60"),
        (lambda: Lossless(target_macs=1.1), "--target-macs is a share"),
        (lambda: Lossless(target_size=0), "more than 0 bytes"),
        (lambda: Lossless(target_latency=1.5), "--target-latency is a share"),
        (lambda: Lossless(keep=0.5, min_speedup=0.0), "--min-speedup must be more than 0"),
        (lambda: Lossless(target_latency=0.5, min_speedup=0.9), "1 or more where latency is the goal"),
        (lambda: Compact(resource="latency", min_speedup=math.nan), "1 or more where latency is the goal"),
        (lambda: Options(sensitivity="joint!"), "unknown sensitivity 'joint!': take"),
        (lambda: Options(rank_multiple=0), "1 or more, not 0"),
        (lambda: Options(threads=-1), "threads must be 0"),
    ],
)
def test_a_wrong_wish_cannot_exist(make, says: str):
    with pytest.raises(GoalError) as caught:
        make()
    assert says in str(caught.value)


def test_what_a_goal_counts():
    assert (
        Compact(gate=Gate(max_drop=0.0, observed=True)).name,
        Compact(gate=Gate(max_drop=0.0, observed=True)).resource,
        Compact(resource="macs").resource,
    ) == ("compact", "parameters", "macs")
    goals = (Lossless(keep=0.5), Lossless(target_size=9), Lossless(target_macs=1.0))
    assert [g.resource for g in goals] == ["parameters", "bytes", "macs"]
    assert {g.name for g in goals} == {"lossless"}
    assert Lossless(target_latency=0.7).resource == "latency"


def test_only_a_goal_of_latency_demands_a_speed_up_by_itself():
    assert Lossless(target_latency=0.7).speedup == Compact(resource="latency").speedup == 1.02
    assert Lossless(keep=0.5).speedup is Compact(gate=Gate(max_drop=0.0, observed=True)).speedup is None
    assert Compact(min_speedup=0.95).speedup == 0.95
    assert Compact(resource="latency", min_speedup=1.0).speedup == 1.0


def test_tails_are_summed_from_the_small_end():
    """On a spectrum from 1e4 to 1e-12 the total minus the head would be all rounding."""
    values = np.array([1e4, 1.0, 1e-4, 1e-12])
    assert linalg.tails(values)[-2:].tolist() == [1e-12, 0.0]
    assert linalg.tails(values)[2] == 1e-4 + 1e-12
    assert linalg.relative(np.zeros(3)).tolist() == [0.0] * 3


@given(ARRAYS)
def test_decompositions_are_right_and_their_signs_fixed(drawn: tuple[int, int, int]):
    rows, columns, seed = drawn
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    second = matrix @ matrix.T
    values, vectors = linalg.eigen(second)
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()
    np.testing.assert_allclose(vectors * values @ vectors.T, second, rtol=1e-9, atol=1e-9)
    singular, left = linalg.svd(matrix)
    np.testing.assert_allclose(singular**2, values[: len(singular)], rtol=1e-6, atol=1e-9)
    for columns_ in (vectors, left):
        assert (columns_[np.abs(columns_).argmax(0), np.arange(columns_.shape[1])] > 0).all()
    np.testing.assert_allclose(linalg.root(second) @ linalg.root(second), second, rtol=1e-6, atol=1e-9)
    root, inverse = linalg.roots(second, floor=1e-3)
    np.testing.assert_allclose(root @ inverse, np.eye(rows), rtol=1e-6, atol=1e-6)
    assert np.linalg.cond(root) <= 1e3**0.5 * (1 + 1e-6)


def test_roots_of_nothing_are_the_identity():
    root, inverse = linalg.roots(np.zeros((3, 3)))
    np.testing.assert_array_equal(root, np.eye(3))
    np.testing.assert_array_equal(inverse, np.eye(3))


PLAN = SavedPlan("ab" * 32, "inputs", 3, 8, (SavedChoice("y", "W", (6, 4, 3, 3), "kernel-first", (2,)),), "tool 1")


def test_a_plan_survives_its_file(tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json(), encoding="utf-8")
    assert read_plan(path) == PLAN
    assert PLAN.needs_data
    assert not replace(PLAN, sensitivity="weights").needs_data


def test_a_saved_plan_holds_what_is_factored():
    choices = (Choice("a", "A", Option("dense", (), Cost())), Choice("b", "B", Option("svd", (3,), Cost())))
    saved = SavedPlan.of(Plan(choices), {"a": (9, 9), "b": (8, 7)}, "hash", Options(seed=5, rank_multiple=2), "t")
    choices = (SavedChoice("b", "B", (8, 7), "svd", (3,)),)
    assert saved == SavedPlan("hash", "joint", 5, 2, choices, "t", shared_input=True)


def damaged(change: str) -> str:
    content = json.loads(PLAN.to_json())
    if change == "format":
        content["format"] = "a recipe"
    elif change == "version":
        content["version"] = 99
    elif change == "missing":
        del content["model_sha256"]
    elif change == "choices":
        content["choices"] = [{"site": "y"}]
    elif change == "ranks":
        content["choices"][0]["ranks"] = "many"
    elif change == "list":
        return "[1, 2]"
    elif change == "cut":
        return PLAN.to_json()[:100]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("format", "is not a plan"),
        ("version", "is a plan of version 99; this tool reads version 2"),
        ("missing", "is damaged (KeyError: 'model_sha256')"),
        ("choices", "is damaged (KeyError"),
        ("ranks", "is damaged (ValueError"),
        ("list", "is not a plan"),
        ("cut", "cannot be read as a plan"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, change: str, says: str):
    path = tmp_path / "plan.json"
    path.write_text(damaged(change), encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_plan_and_a_directory(tmp_path: Path):
    with pytest.raises(PlanError, match="no such file"):
        read_plan(tmp_path / "none.json")
    with pytest.raises(PlanError, match="cannot be read as a plan"):
        read_plan(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanError, match="cannot be read as a plan"):
        read_plan(tmp_path / "binary")


def result(model: onnx.ModelProto, *, changed: bool) -> Result:
    size = Size(10, 40)
    return Result(
        changed,
        model,
        "why",
        Compact(gate=Gate(max_drop=0.0, observed=True)),
        Options(),
        "m.onnx",
        "hash",
        size,
        size,
        (),
        (),
    )


def test_a_result_saves_what_was_gained_and_only_that(tmp_path: Path):
    model = factored(mlp([8, 8], [None], 1), {"y": ("svd", 3)})
    with pytest.raises(ModelError, match="nothing to save: why"):
        result(model, changed=False).save(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    good = result(model, changed=True)
    good.save(str(tmp_path / "m.onnx"))
    assert good
    assert onnx.load(tmp_path / "m.onnx") == model


def test_a_result_that_is_no_model_is_not_saved(tmp_path: Path):
    broken = linear(weight((4, 4), 0))
    broken.graph.node[0].input[1] = "nobody"
    with pytest.raises(ModelError, match=r"does not pass onnx\.checker"):
        result(broken, changed=True).save(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
