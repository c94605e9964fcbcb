"""Validation by workers: their outputs come back in order, and the verdict is the one that is reached here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import build, mlp, node, normal, value
from executors_work import Here

from onnx_lowrank.errors import RuntimeProblem
from onnx_lowrank.executors import Work
from onnx_lowrank.goals import Gate
from onnx_lowrank.graph import large
from onnx_lowrank.metrics import RelativeL2
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.validation import Judge
from onnx_lowrank.validation.on_workers import MOST, SHARD, OnWorkers, tellable

CPU = Runtime(provider="cpu", threads=1)
MODEL = mlp([8, 12, 6], [None, None], 3)
X = normal([150, 8], 1)


def pool(workers: int) -> Here:
    return Here(Work(len, None), workers)


def moved(by: float) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    first = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(first)
    first.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(1 + by), first.name))
    return model


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("count", [0, 1, SHARD, SHARD + 1, 150])
def test_outputs_come_back_in_order(workers: int, batch: int, count: int):
    feeds = [{"x": row[None]} for row in X[:count]]
    candidate, here = OnWorkers(MODEL, CPU, pool(workers)), Runner(MODEL, runtime=CPU)
    got = [sample["y"] for sample in candidate.each(feeds, batch)]
    assert len(got) == count
    for feed, output in zip(feeds, got, strict=True):
        np.testing.assert_allclose(output, here.run(feed)["y"], rtol=1e-5, atol=1e-6)
    again = [sample["y"] for sample in OnWorkers(MODEL, CPU, pool(3)).each(feeds, batch)]
    assert all(np.array_equal(one, other) for one, other in zip(got, again, strict=True))


def test_many_samples_make_larger_shards():
    workers = pool(2)
    feeds = [{"x": row[None]} for row in normal([SHARD * MOST + 5, 8], 2)]
    assert sum(1 for _ in OnWorkers(MODEL, CPU, workers).each(feeds, 8)) == len(feeds)
    assert len(workers.futures) == MOST


@pytest.mark.parametrize("by", [0.0, 0.02, 0.4])
def test_the_verdict_is_the_one_that_is_reached_here(by: float):
    feeds = [{"x": row[None]} for row in X]
    judge = Judge(Runner(MODEL, runtime=CPU), feeds, None, RelativeL2(), Gate(max_drop=0.05))
    workers = pool(2)
    here, there = judge.judge(Runner(moved(by), runtime=CPU)), judge.judge(OnWorkers(moved(by), CPU, workers))
    assert workers.futures
    assert (here.word, here.samples) == (there.word, there.samples)
    assert there.drop.estimate == pytest.approx(here.drop.estimate, rel=1e-5, abs=1e-9)
    assert there.bound.value == pytest.approx(here.bound.value, rel=1e-5, abs=1e-9)


def test_a_model_whose_outputs_hang_on_the_batch_runs_one_at_a_time():
    nodes = [node("ReduceMax", ["x"], ["m"], keepdims=0), node("Div", ["x", "m"], ["y"])]
    whole = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], {})
    same = build([node("Identity", ["x"], ["y"])], [value("x", ["n", 8])], [value("y", ["n", 8])], {})
    feeds = [{"x": row[None]} for row in np.abs(X) + 1]
    judge = Judge(Runner(same, runtime=CPU), feeds, None, RelativeL2(), Gate(max_drop=10.0))
    verdicts = [judge.judge(Runner(whole, runtime=CPU)), judge.judge(OnWorkers(whole, CPU, pool(2)))]
    assert verdicts[0].drop.estimate == verdicts[1].drop.estimate


def test_what_onnxruntime_refuses_on_a_worker_is_told_as_here():
    candidate = OnWorkers(MODEL, CPU, pool(2))
    with pytest.raises(RuntimeProblem, match="cannot run the model on these inputs"):
        list(candidate.each([{"x": np.zeros((1, 5), np.float32)}] * 3, 1))


def test_what_one_message_does_not_hold_is_not_told(monkeypatch):
    assert tellable(MODEL)
    monkeypatch.setattr(large, "PROTOBUF_LIMIT", MODEL.ByteSize())
    assert not tellable(MODEL)
