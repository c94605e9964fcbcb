"""Shards of the samples, collected by workers: the same sums, whoever makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import convnet, feeds_of, mlp, normal, options, run, samples_of, shared_inputs
from executors_work import Here
from exhaustive import collection

from onnx_lowrank.collection import fit, shards
from onnx_lowrank.collection.joint import group_scores, joint_scores
from onnx_lowrank.collection.kept_groups import kept_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.collection.shards import work_of
from onnx_lowrank.executors import Work
from onnx_lowrank.metrics import listed
from onnx_lowrank.progress import Silent

MODELS = {
    "mlp": (mlp((8, 12, 6), (None, None), 0), (70, 8)),
    "convnet": (convnet((3, 6, 8), (None, None), 4, 1), (40, 3, 8, 8)),
    "shared": (shared_inputs(8, (8, 5), rank=None, together=False), (70, 8)),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 16)


def test_shards_hold_neighbours_and_are_at_most_so_many():
    for count in (1, 15, 16, 17, 100, 5000):
        parts = shards.shards_of(range(count))
        assert [number for part in parts for number in part] == list(range(count))
        assert len(parts) <= shards.MOST
        assert len(parts) == 1 or min(map(len, parts[:-1])) >= shards.SHARD


def setup_of(model: onnx.ModelProto, x: np.ndarray, *, batch: int = 4) -> CollectionSetup:
    objective = Objective.of(model, "relative-l2", listed([run(model, feed) for feed in feeds_of(x[:4])]), 0)
    return replace(collection(model, x, objective, repeats=1, batch=batch), score=16)


def same(one: JointScores, other: JointScores, **close: float) -> None:
    assert one.scored.keys() == other.scored.keys()
    assert one.scored
    for key, scores in one.scored.items():
        for name in ("tails", "rise", "kron"):
            np.testing.assert_allclose(getattr(other.scored[key], name), getattr(scores, name), err_msg=name, **close)


def by(pool_of: object, setup: CollectionSetup) -> JointScores:
    (scores,) = group_scores([setup], setup.inventory.sites, lambda count: None, pool_of(work_of(setup)))  # type: ignore[operator]
    return scores


@pytest.mark.parametrize("name", MODELS)
def test_shards_give_what_one_process_gives(name: str):
    model, shape = MODELS[name]
    setup = setup_of(model, normal(shape, 3))
    same(joint_scores(setup), by(Here, setup), rtol=1e-4, atol=1e-5)


def test_the_workers_do_not_matter_to_a_bit():
    setup = setup_of(*_model("mlp"))
    one, other = by(lambda work: Here(work, 1), setup), by(lambda work: Here(work, 5), setup)
    same(one, other, rtol=0, atol=0)
    local = replace(setup, options=options(executor="local:2"))
    same(one, kept_scores([local], Silent())[0], rtol=0, atol=0)


def test_wide_sides_are_decomposed_by_workers_to_the_same_bits(monkeypatch):
    setup = setup_of(*_model("mlp"))
    pools: list[Here] = []

    def pool_of(work: Work) -> Here:
        pools.append(Here(work, 3))
        return pools[-1]

    here = by(pool_of, setup)
    monkeypatch.setattr(fit, "WIDE", 5)
    wide = setup.group(setup.inventory.sites).projected
    assert len(wide) >= 2
    same(here, by(pool_of, setup), rtol=0, atol=0)
    shards_alone, with_sides = (len(pool.futures) for pool in pools)
    assert with_sides == shards_alone + len(wide)


def test_samples_that_do_not_fit_are_run_again(monkeypatch):
    setup = setup_of(*_model("mlp"))
    monkeypatch.setattr(shards, "cache_bytes", lambda *_: 0.0)
    same(joint_scores(setup), by(Here, setup), rtol=1e-4, atol=1e-5)


def test_broken_samples_are_left_out_by_workers_as_well():
    model, x = _model("mlp")
    x[[5, 40]] = 1e30
    setup = setup_of(model, x)
    one, other = joint_scores(setup), by(Here, setup)
    assert one.broken == other.broken == {5, 40}
    same(one, other, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_sent_is_collected_here_and_that_is_said(caplog, monkeypatch):
    setup = replace(setup_of(*_model("mlp")), options=options(executor="local:2"))
    assert not shards.kept_here(setup)
    own = replace(setup, objective=replace(setup.objective, custom=lambda outputs, label: {}, labels=np.zeros(70)))
    assert "a loss of your own" in shards.kept_here(own)
    monkeypatch.setattr(shards, "PROTOBUF_LIMIT", 100)
    same(joint_scores(setup), kept_scores([setup], Silent())[0], rtol=0, atol=0)
    assert "--executor is left out: above 2 GB" in caplog.text


def test_what_workers_are_told_holds_no_sample():
    model, x = _model("mlp")
    told = [len(work_of(replace(setup_of(model, x), samples=samples_of(feeds_of(x[:n])))).packed()) for n in (8, 64)]
    assert told[1] - told[0] < 64 * 8 * 4  # hashes alone


def _model(name: str) -> tuple[onnx.ModelProto, np.ndarray]:
    model, shape = MODELS[name]
    return model, normal(shape, 3)
