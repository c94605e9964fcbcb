"""Tiny linear classifiers for the tests of the judge."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner

WIDTH, CLASSES = 6, 4
WEIGHT = np.random.default_rng(0).normal(size=(WIDTH, CLASSES)).astype(np.float32)


def linear(weight, *, ops=(), batch="n", outputs=("y",)):
    """Return a Runner of y = op(… x W), from x (batch, …, in); with two outputs z = x W, too."""
    nodes = [helper.make_node("MatMul", ["x", "W"], ["h0"])]
    nodes += [helper.make_node(op, [f"h{i}"], [f"h{i + 1}"]) for i, op in enumerate(ops)]
    nodes += [helper.make_node("Identity", [f"h{len(ops)}"], ["y"]), helper.make_node("Identity", ["h0"], ["z"])]
    value = helper.make_tensor_value_info
    shape = [batch, None, weight.shape[0]] if batch == "tokens" else [batch, weight.shape[0]]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [value("x", TensorProto.FLOAT, shape)],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(weight, np.float32), "W")],
    )
    opset = [helper.make_opsetid("", 17)]
    return Runner(
        helper.make_model(graph, opset_imports=opset, ir_version=8), runtime=Runtime(provider="cpu", threads=1)
    )


def feeds(n, seed=1):
    return [{"x": x[None]} for x in np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)]


def labels_of(runner, samples):
    return np.array([int(runner.run(sample)["y"].argmax()) for sample in samples])


def noisy(scale, seed=2, **settings):
    return linear(WEIGHT + scale * np.random.default_rng(seed).normal(size=WEIGHT.shape), **settings)


class Counting(Runner):
    """Counts the samples it runs."""

    rows = 0

    def run(self, feed):
        self.rows += len(feed["x"])
        return super().run(feed)


def counting(weight):
    runner = linear(weight)
    runner.__class__ = Counting
    return runner


ORIGINAL = linear(WEIGHT)
SAMPLES = feeds(200)
LABELS = labels_of(ORIGINAL, SAMPLES)


def swapped(n, wrong):
    """Return samples, labels and two models, the second of which decides otherwise on `wrong` of the n samples."""
    x = np.zeros((n, 3), np.float32)
    x[:, 0] = 1
    x[:wrong, 2] = 1
    first = np.array([[1, 0], [0, 0], [0, 0]], np.float32)
    second = np.array([[1, 0], [0, 0], [0, 2]], np.float32)
    return [{"x": row[None]} for row in x], np.zeros(n, int), linear(first), linear(second)
