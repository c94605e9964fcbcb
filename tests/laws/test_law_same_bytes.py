"""Law: the same seed gives the same bytes, and `apply` of the saved plan gives the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import convnet, feeds_of, mlp, moments_of, normal, options

from onnx_lowrank.goals import Compact, Gate
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.options import Options, Runtime
from onnx_lowrank.pipeline import apply, optimize
from onnx_lowrank.results.saved_plan import SavedPlan, read_plan

GOAL = Compact(gate=Gate(max_drop=0.2, observed=True))
MODELS = {
    "mlp": lambda: (mlp([16, 24, 20, 8], [4, 4, None], 3), {"x": normal([64, 16], 1)}),
    "conv": lambda: (convnet([3, 12, 16], [3, 4], 8, 5), {"x": normal([40, 3, 8, 8], 2)}),
}


@pytest.mark.parametrize("sensitivity", ["joint", "refit", "inputs", "weights"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_same_seed_same_bytes_and_the_plan_gives_the_same_weights(name: str, sensitivity: str, tmp_path: Path):
    model, data = MODELS[name]()
    refit = sensitivity == "refit"
    sensitivity = "joint" if refit else sensitivity
    settings = options(rank_multiple=2, metric="relative-l2", sensitivity=sensitivity, seed=3, refit=refit)
    files = [tmp_path / f"{i}.onnx" for i in range(2)]
    results = [optimize(model, data, GOAL, settings, output=file) for file in files]
    assert results[0].changed, results[0].reason
    assert files[0].read_bytes() == files[1].read_bytes()

    (tmp_path / "plan.json").write_text(SavedPlan.of_result(results[0], "test").to_json(), encoding="utf-8")
    again = apply(
        read_plan(tmp_path / "plan.json"), model, data if sensitivity != "weights" else None,
        Options(runtime=Runtime(provider="cpu", threads=1)), output=tmp_path / "applied.onnx",
    )  # fmt: skip
    expected = {t.name: onnx.numpy_helper.to_array(t) for t in results[0].model.graph.initializer}
    applied = {t.name: onnx.numpy_helper.to_array(t) for t in again.graph.initializer}
    assert applied.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(applied[key], array, strict=True)
    assert [n.SerializeToString() for n in again.graph.node] == [
        n.SerializeToString() for n in results[0].model.graph.node
    ]
    assert content_hash(onnx.load(tmp_path / "applied.onnx")) == content_hash(again)


def test_same_seed_same_patches_where_not_all_are_kept(monkeypatch: pytest.MonkeyPatch):
    """The sampled part of the patches, whose errors decide, is the same in every run of one seed, and only there."""
    monkeypatch.setattr("onnx_lowrank.collection.input_moments.PATCH_MOST", 20)
    model, data = MODELS["conv"]()
    feeds = feeds_of(data["x"][:3])
    first, again, other = (moments_of(model, feeds, seed=seed)["c0"] for seed in (0, 0, 1))
    assert len(first.patches) == 20 < first.positions
    np.testing.assert_array_equal(first.keys, again.keys)
    np.testing.assert_array_equal(first.patches, again.patches)
    assert not np.array_equal(first.patches, other.patches)


def test_another_seed_draws_another_validation_set():
    model, data = MODELS["mlp"]()
    verdicts = [
        optimize(model, data, GOAL, options(rank_multiple=2, metric="relative-l2", seed=seed)).verdict
        for seed in (0, 1)
    ]
    assert verdicts[0].drop.estimate != verdicts[1].drop.estimate
