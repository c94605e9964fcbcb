"""Gradient graphs against central finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import scipy.special
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_lowrank.errors import ModelError
from onnx_lowrank.gradient import GradientGraph, build_gradient
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner

law = settings(max_examples=20)
"""Every law sees the same examples in every run."""


class Erf(OpRun):
    """In float64 (onnx's own computes in float32)."""

    op_domain = ""

    def _run(self, x):
        return (scipy.special.erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """In float64, as its function body."""

    op_domain = ""

    def _run(self, x, approximate=None):
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
        return (0.5 * x * (1 + scipy.special.erf(x * np.sqrt(0.5))),)


Function = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def function(model: onnx.ModelProto, names: Sequence[str], *, reference: bool) -> Function:
    """Return the model as a function: onnxruntime, or the reference evaluator where that has no float64 kernel.

    `reference`: at once, where onnxruntime's kernel takes float64 but computes in float (Erf, Gelu, Shrink).
    """
    if not reference:
        try:
            runner = Runner(model, runtime=Runtime(provider="cpu", threads=1), outputs=names)
            return lambda feed: list(runner.run(feed).values())
        except ModelError as error:
            if not any(text in str(error) for text in ("NOT_IMPLEMENTED", "Type 'tensor(double)'")):
                raise
    evaluator = ReferenceEvaluator(model, new_ops=[Erf, Gelu])
    return lambda feed: [np.asarray(value) for value in evaluator.run(list(names), dict(feed))]


@dataclass
class Case:
    """A graph of a few nodes: `inputs` are fed (float64 ones are differentiated), `constants` are initializers."""

    nodes: Sequence[onnx.NodeProto]
    inputs: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    opset: int = 17
    static: bool = False
    outputs: Sequence[str] = ("y",)
    reference: bool = False
    single: bool = False
    """Everything in float32, for onnxruntime's own kernels."""
    step: float = 1e-6
    """Where y is linear in every target, the difference is exact over any step."""
    domains: Sequence[tuple[str, int]] = (("com.microsoft", 1),)

    def __post_init__(self) -> None:
        self.inputs = {name: self._typed(array) for name, array in self.inputs.items()}
        self.constants = {name: self._typed(array) for name, array in self.constants.items()}

    def _typed(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        return array.astype(np.float32) if self.single and array.dtype == np.float64 else array

    @property
    def model(self) -> onnx.ModelProto:
        def info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
            elem = helper.np_dtype_to_tensor_dtype(array.dtype)
            shape = array.shape if self.static else [f"{name}{i}" for i in range(array.ndim)]
            return helper.make_tensor_value_info(name, elem, shape)

        graph = helper.make_graph(
            list(self.nodes),
            "case",
            [info(name, array) for name, array in self.inputs.items()],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT if self.single else TensorProto.DOUBLE, None)
                for name in self.outputs
            ],
            [numpy_helper.from_array(np.ascontiguousarray(a).reshape(a.shape), n) for n, a in self.constants.items()],
        )
        imports = [helper.make_opsetid("", self.opset)]
        used = {node.domain for node in self.nodes}
        imports += [helper.make_opsetid(domain, version) for domain, version in self.domains if domain in used]
        return helper.make_model(graph, opset_imports=imports, ir_version=8 if self.opset < 21 else 10)


def gradients(
    case: Case, *, targets: Sequence[str] | None = None, rng: np.random.Generator
) -> tuple[GradientGraph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the gradient graph, the seeds (random) and the gradient at every target."""
    model = case.model
    wanted = [n for n, a in case.inputs.items() if a.dtype.kind == "f"] if targets is None else list(targets)
    graph = build_gradient(model, wanted, list(case.outputs))
    assert not graph.unreached, graph.unreached
    values = function(model, case.outputs, reference=case.reference)(case.inputs)
    seeds = {name: rng.normal(size=v.shape).astype(v.dtype) for name, v in zip(case.outputs, values, strict=True)}
    feed = {**case.inputs, **{graph.seeds[name]: seed for name, seed in seeds.items()}}
    names = list(dict.fromkeys(graph.gradients[name] for name in wanted))  # equal gradients are one output
    found = dict(zip(names, function(graph.model, names, reference=case.reference)(feed), strict=True))
    return graph, seeds, {name: found[graph.gradients[name]] for name in wanted}


def check(case: Case, *, rtol: float, seed: int, targets: Sequence[str] | None = None) -> GradientGraph:
    """Assert that ⟨gradient, d⟩ is the central difference along two random directions d, for every target.

    `rtol` is relative to ‖gradient‖ ‖d‖ (and to the size of the loss, for its rounding).
    """
    rng = np.random.default_rng([seed, 77])  # not the stream that `draw` takes the inputs from
    graph, seeds, found = gradients(case, targets=targets, rng=rng)
    forward = function(case.model, case.outputs, reference=case.reference)
    for target, gradient in found.items():
        x = case.inputs[target]
        assert gradient.shape == x.shape, (target, gradient.shape, x.shape)
        for _ in range(2):
            d = np.asarray(rng.normal(size=x.shape), x.dtype)
            high, low = (
                forward({**case.inputs, target: np.asarray(x + sign * case.step * d, x.dtype)}) for sign in (1, -1)
            )
            moved = sum(float(((h - w) * seeds[n]).sum()) for n, h, w in zip(case.outputs, high, low, strict=True))
            scale = float(np.linalg.norm(gradient) * np.linalg.norm(d))
            size = sum(float(np.abs(h * seeds[n]).sum()) for n, h in zip(case.outputs, high, strict=True))
            expected, got = moved / (2 * case.step), float((gradient * d).sum())
            assert abs(expected - got) <= rtol * (scale + 1e-3 * size), (target, expected, got, scale)
    return graph


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), domain: str = "", **attributes):
    return helper.make_node(op_type, list(inputs), list(outputs), domain=domain, **attributes)


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def positive(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 2.0, size=shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)
