"""Samples are run together only where that changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from builders import build, feeds_of, linear, mlp, node, normal, value, weight

from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.batching import batch_size, batches, join, rows_of, split
from onnx_lowrank.runtime.runner import Runner

CPU = {"runtime": Runtime(provider="cpu", threads=1)}


def test_batches_are_neighbours_of_one_layout():
    feeds = [{"x": np.zeros((1, n))} for n in (3, 3, 3, 4, 3, 4, 4)]
    assert [[f["x"].shape[1] for f in run] for run in batches(feeds, 2)] == [[3, 3], [3], [4], [3], [4, 4]]
    assert list(batches([], 4)) == []


def test_join_and_split_are_inverse():
    feeds = [{"x": normal([rows, 2], rows)} for rows in (1, 3, 2)]
    joined = join(feeds)
    assert joined["x"].shape == (6, 2)
    for part, feed in zip(split({"y": joined["x"]}, feeds), feeds, strict=True):
        np.testing.assert_array_equal(part["y"], feed["x"])
    assert rows_of({"x": np.zeros((3, 1)), "z": np.zeros((3, 7))}) == 3
    assert rows_of({"x": np.zeros((3, 1)), "z": np.zeros((2, 7))}) == 1
    assert rows_of({"x": np.float32(1)}) == 1


def over_the_batch(op: str) -> Runner:
    nodes = {
        "normalise": [node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), node("Sub", ["x", "m"], ["y"])],
        "softmax": [node("Softmax", ["x"], ["y"], axis=0)],
        "sum": [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        "sort": [node("TopK", ["x", "k"], ["y", "i"], axis=0)],
        "transpose": [node("Transpose", ["x"], ["y"])],
    }[op]
    shape = ["n", 4] if op not in ("sum", "transpose") else (["m"] if op == "sum" else [4, "n"])
    weights = {"axes": np.array([0])} if op == "sum" else {"k": np.array([1])} if op == "sort" else {}
    return Runner(build(nodes, [value("x", ["n", 4])], [value("y", shape)], weights), **CPU)


@pytest.mark.parametrize("op", ["normalise", "softmax", "sum", "sort", "transpose"])
def test_one_at_a_time_where_samples_would_touch(op: str):
    assert batch_size(over_the_batch(op), feeds_of(normal([6, 4], 1))) == 1


def test_one_at_a_time_where_the_batch_is_fixed():
    assert batch_size(Runner(linear(weight((4, 3), 0), batch=1), **CPU), feeds_of(normal([6, 4], 1))) == 1


def test_several_where_nothing_changes():
    runner = Runner(mlp([4, 6, 2], [None, None], 0), **CPU)
    feeds = feeds_of(normal([20, 4], 1))
    assert batch_size(runner, feeds) == 8
    assert batch_size(runner, feeds, most=3) == 3
    assert batch_size(runner, feeds[:1]) == 1
    assert batch_size(runner, []) == 1


def test_one_at_a_time_where_no_two_neighbours_are_alike():
    runner = Runner(build([node("Relu", ["x"], ["y"])], [value("x", ["n", "m"])], [value("y", ["n", "m"])], {}), **CPU)
    assert batch_size(runner, [{"x": normal([1, width], 0)} for width in (3, 4, 3, 4)]) == 1
    assert batch_size(runner, [{"x": normal([1, width], 0)} for width in (3, 4, 4, 3)]) == 8


def test_one_at_a_time_for_scalars():
    runner = Runner(build([node("Relu", ["x"], ["y"])], [value("x", [])], [value("y", [])], {}), **CPU)
    assert batch_size(runner, [{"x": np.float32(i)} for i in map(np.array, range(3))]) == 1
