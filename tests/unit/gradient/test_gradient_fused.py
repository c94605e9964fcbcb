"""com.microsoft operators: onnxruntime's own kernels in float32, differentiated or taken apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from gradient_finite import Case, check, draw, function, gradients, node
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.gradient import build_gradient
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner

MS = "com.microsoft"
SMOOTH = {"single": True, "step": 1e-2}
"""Central differences of a float32 kernel: the step balances rounding (1e-7 / step) against curvature (step²)."""


@pytest.mark.parametrize("ta", [0, 1])
@pytest.mark.parametrize("tb", [0, 1])
@given(batch=st.sampled_from([((), ()), ((2,), (2,)), ((2, 3), (2, 3)), ((3,), (1,))]), seed=st.integers(0, 99))
def test_fused_matmul(ta, tb, batch, seed):
    a, b = (4, 2) if ta else (2, 4), (3, 4) if tb else (4, 3)
    inputs = {"a": draw(seed, *batch[0], *a), "b": draw(seed + 1, *batch[1], *b)}
    fused = node("FusedMatMul", ["a", "b"], domain=MS, transA=ta, transB=tb, alpha=0.5)
    check(Case([fused], inputs, static=True, single=True, step=1.0), rtol=1e-4, seed=seed)


@pytest.mark.parametrize("op", ["Gelu", "QuickGelu", "FastGelu"])
def test_activations(op):
    check(Case([node(op, ["x"], domain=MS)], {"x": draw(0, 3, 4)}, static=True, **SMOOTH), rtol=1e-3, seed=0)


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_activations_with_a_bias(op):
    case = Case([node(op, ["x", "b"], domain=MS)], {"x": draw(0, 3, 4), "b": draw(1, 4)}, static=True, **SMOOTH)
    check(case, rtol=1e-3, seed=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [("y",), ("y", "total")])
def test_skip_layer_normalization(bias, outputs):
    inputs = {"x": draw(0, 2, 3, 8), "skip": draw(1, 2, 3, 8), "scale": draw(2, 8), "shift": draw(3, 8)}
    if bias:
        inputs["bias"] = draw(4, 8)
    made = ["y"] if len(outputs) == 1 else ["y", "", "", "total"]
    skip = node("SkipLayerNormalization", list(inputs), made, domain=MS, epsilon=1e-3)
    case = Case([skip], inputs, static=True, outputs=outputs, **SMOOTH)
    check(case, rtol=2e-3, seed=0, targets=["x", "skip"])


def test_simplified_layer_normalization():
    inputs = {"x": draw(0, 2, 3, 8), "scale": draw(2, 8)}
    norm = node("SimplifiedLayerNormalization", list(inputs), epsilon=1e-3, axis=-1, stash_type=1)
    check(Case([norm], inputs, static=True, **SMOOTH), rtol=2e-3, seed=0)


def test_skip_simplified_layer_normalization():
    inputs = {"x": draw(0, 2, 3, 8), "skip": draw(1, 2, 3, 8), "scale": draw(2, 8)}
    norm = node("SkipSimplifiedLayerNormalization", list(inputs), domain=MS, epsilon=1e-3)
    check(Case([norm], inputs, static=True, **SMOOTH), rtol=2e-3, seed=0)


def test_embed_layer_normalization():
    tables = {"word": draw(0, 9, 8), "place": draw(1, 5, 8), "kind": draw(2, 2, 8)}
    scale = {"scale": draw(3, 8), "shift": draw(4, 8)}
    ids = {"ids": np.array([[1, 2, 3], [4, 1, 8]], np.int32), "kinds": np.array([[0, 0, 1], [1, 1, 0]], np.int32)}
    norm = node("EmbedLayerNormalization", ["ids", "kinds", *tables, *scale], ["y", "mask"], domain=MS, epsilon=1e-3)
    case = Case([norm], {**ids, **tables}, scale, static=True, **SMOOTH)
    check(case, rtol=2e-3, seed=0, targets=list(tables))


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", None), ("Clip", [0.0, 1.0]), ("LeakyRelu", [0.2]), ("HardSigmoid", [0.3, 0.4]), ("Tanh", None)],
)
@pytest.mark.parametrize("added", [False, True])
def test_fused_conv(activation, parameters, added):
    inputs = {"x": draw(0, 1, 2, 5, 5)} | ({"z": draw(3, 1, 3, 5, 5)} if added else {})
    attributes = {} if parameters is None else {"activation_params": parameters}
    names = ["x", "w", "b", *(["z"] if added else [])]
    conv = node("FusedConv", names, domain=MS, activation=activation, pads=[1] * 4, **attributes)
    case = Case([conv], inputs, {"w": draw(1, 3, 2, 3, 3) / 3, "b": draw(2, 3)}, static=True, single=True, step=1e-3)
    check(case, rtol=3e-3, seed=0)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh"])
def test_fused_gemm(activation):
    gemm = node("FusedGemm", ["x", "w", "b"], domain=MS, activation=activation, activation_alpha=0.2, transB=1)
    inputs = {"x": draw(0, 2, 3)}
    case = Case([gemm], inputs, {"w": draw(1, 4, 3), "b": draw(2, 4)}, static=True, single=True, step=1e-3)
    check(case, rtol=3e-3, seed=0)


MASKS = {
    "none": None,
    "keys": np.array([[1, 1, 0], [1, 1, 1]], np.int32),
    "lengths": np.array([2, 3], np.int32),
    "pairs": np.array([[[1, 0, 0], [1, 1, 0], [1, 1, 1]]] * 2, np.int32),
}


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(mask, causal):
    """Also that the graph it is taken apart into computes what onnxruntime's kernel does."""
    inputs = {"x": draw(0, 2, 3, 8)}
    names = ["x", "w", "b"]
    if MASKS[mask] is not None:
        inputs["mask"] = MASKS[mask]
        names.append("mask")
    attention = node("Attention", names, domain=MS, num_heads=2, unidirectional=causal)
    case = Case([attention], inputs, {"w": draw(1, 8, 24) / 2, "b": draw(2, 24)}, static=True, **SMOOTH)
    graph = check(case, rtol=2e-3, seed=0)
    want = function(case.model, ["y"], reference=False)(case.inputs)[0]
    feed = {**case.inputs, graph.seeds["y"]: np.ones_like(want)}
    assert "Attention" not in {made.op_type for made in graph.model.graph.node}
    np.testing.assert_allclose(
        Runner(graph.model, runtime=Runtime(provider="cpu"), outputs=["y"]).run(feed)["y"], want, atol=1e-5
    )


def test_past_keys_are_refused_by_name():
    attention = node("Attention", ["x", "w", "b", "", "past"], ["y", "present"], domain=MS, num_heads=2)
    inputs = {"x": draw(0, 2, 3, 8), "past": draw(3, 2, 2, 2, 1, 4)}
    case = Case([attention], inputs, {"w": draw(1, 8, 24), "b": draw(2, 24)}, static=True, single=True)
    graph = build_gradient(case.model, ["x"])
    assert graph.unreached["x"].startswith("no rule for com.microsoft.Attention")


def test_what_onnxruntimes_optimizer_writes(tmp_path):
    """A transformer layer, optimised and saved by onnxruntime: the same gradients as before."""
    case = _layer()
    path, options = tmp_path / "optimised.onnx", ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(str(path))
    kinds = {made.op_type for made in optimised.graph.node if made.domain == MS}
    assert kinds & {"Gelu", "BiasGelu"}, kinds
    assert "SkipLayerNormalization" in kinds
    _, seeds, want = gradients(case, rng=np.random.default_rng(0))
    graph = build_gradient(optimised, ["x"])
    assert not graph.unreached
    feed = {**case.inputs, graph.seeds["y"]: seeds["y"]}
    found = Runner(graph.model, runtime=Runtime(provider="cpu")).run(feed)[graph.gradients["x"]]
    np.testing.assert_allclose(found, want["x"], rtol=1e-4, atol=1e-5)


def _layer() -> Case:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "b"], ["c"]),
        node("Div", ["c", "root"], ["d"]),
        node("Erf", ["d"], ["e"]),
        node("Add", ["e", "one"], ["f"]),
        node("Mul", ["c", "f"], ["g"]),
        node("Mul", ["g", "half"], ["h"]),
        node("MatMul", ["h", "v"], ["i"]),
        node("Add", ["i", "x"], ["j"]),
        node("LayerNormalization", ["j", "scale", "shift"], ["y"]),
    ]
    constants = {
        "w": draw(1, 8, 16),
        "b": draw(2, 16),
        "v": draw(3, 16, 8),
        "root": np.array(np.sqrt(2.0)),
        "one": np.array(1.0),
        "half": np.array(0.5),
        "scale": draw(4, 8),
        "shift": draw(5, 8),
    }
    return Case(nodes, {"x": draw(0, 2, 3, 8)}, constants, static=True, single=True)
