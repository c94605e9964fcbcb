"""Is the original deterministic? Run twice on some samples, and searched for operators that draw numbers."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.constants import constant_value
from onnx_lowrank.graph.mapped import tensor_array
from onnx_lowrank.graph.traversal import all_nodes
from onnx_lowrank.metrics import numeric
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Samples
from onnx_lowrank.types import Array

TWICE = 4
"""Samples that the original is run on twice."""
RANDOM_OPS = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


def varies(model: onnx.ModelProto, runner: Runner, samples: Samples) -> str:
    """Return why the original is not deterministic: what differs between two runs; empty where nothing does.

    Dropout in training mode counts, although onnxruntime takes it out: other runtimes do not.
    """
    if dropouts := [name for name in random_operators(model) if name.startswith("Dropout")]:
        return f"{dropouts[0]} is in training mode"
    for feed in samples.feeds[:TWICE]:
        first_run, second_run = runner.run(feed), runner.run(feed)
        for name, first in first_run.items():
            second = second_run[name]
            if numeric(first) and (first.shape != second.shape or not _close(first, second)):
                return f"output {name!r} differs between two runs on the same sample"
    return ""


def _close(first: Array, second: Array) -> bool:
    if first.dtype.kind != "f":
        return bool(np.array_equal(first, second))
    size = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    return bool(np.allclose(first, second, rtol=1e-3, atol=1e-4 * size, equal_nan=True))


def random_operators(model: onnx.ModelProto) -> list[str]:
    """Return the operators of a model, bodies included, that draw numbers: by type and name."""
    true = _constants_that_are_true(model)
    return [f"{node.op_type} {node.name!r}" for node in all_nodes(model) if _draws(node, true)]


def _draws(node: onnx.NodeProto, true: set[str]) -> bool:
    training = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in true
    return node.op_type in RANDOM_OPS or training


def _constants_that_are_true(model: onnx.ModelProto) -> set[str]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in all_nodes(model):
        value = constant_value(node)
        if value is not None:
            tensors[node.output[0]] = value
    flags = {name: t for name, t in tensors.items() if t.data_type == onnx.TensorProto.BOOL and not list(t.dims)}
    return {name for name, tensor in flags.items() if bool(tensor_array(tensor))}


def refuse_random(model: onnx.ModelProto, why: str) -> None:
    """Raise ModelError for an original that gives other outputs at every run."""
    random_nodes = random_operators(model)
    named = (
        f"it draws numbers in {', '.join(random_nodes[:3])}"
        if random_nodes
        else "no operator that draws numbers was found"
    )
    mend = (
        "Dropout in training mode: export it in evaluation mode"
        if any("Dropout" in f for f in random_nodes)
        else "mend it"
    )
    raise ModelError(
        f"the original is not deterministic: {why}; {named};"
        f" {mend}, or judge it against its own spread with --allow-random"
    )
