"""passes.companions: what is folded computes what Mul and Add would, nodes are added only where they must, and nothing
is written where others read the logits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import build, constant, node, normal, run, value, weight
from scipy.special import softmax

from onnx_lowrank.numerics.calibrated_logits import LogitFit
from onnx_lowrank.numerics.ridge_classifier import LayerFit
from onnx_lowrank.passes.companions import Head, LastLayer, find_head, with_layer, with_logits
from onnx_lowrank.types import Array

X, B = normal([6, 8], 1), np.array([0.5, -1.0, 0.25, 0.25])
W, C = weight((4, 8), 2), normal([4], 3)
ONE, BIAS, BOTH = LogitFit(2.5), LogitFit(1.0, B), LogitFit(0.4, B)


def ending(
    nodes: list[onnx.NodeProto], weights: dict[str, Array], *, last: str = "", opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """Return x → `nodes` → z, z being the output y where nothing is `last`."""
    if last:
        nodes = [*nodes, node(last, ["z"], ["y"], "last", axis=-1)]
    else:
        nodes[-1].output[0] = "y"
    kind = onnx.helper.np_dtype_to_tensor_dtype(next(iter(weights.values())).dtype)
    return build(nodes, [value("x", ["n", 8], kind)], [value("y", ["n", 4], kind)], weights, opset=opset, ir=ir)


def gemm(*operands: str, **attributes: float) -> onnx.NodeProto:
    return node("Gemm", ["x", *operands], ["z"], "fc", **attributes)


def biased(order: int, bias: str = "C") -> list[onnx.NodeProto]:
    return [node("MatMul", ["x", "W"], ["h"], "fc"), node("Add", ["h", bias][::order], ["z"], "add")]


T = np.ascontiguousarray(W.T)
FOLDED = {
    "gemm": ending([gemm("W", "C", transB=1)], {"W": W, "C": C}),
    "gemm, softmax": ending([gemm("W", "C", transB=1)], {"W": W, "C": C}, last="Softmax"),
    "gemm, log softmax": ending([gemm("W", "C")], {"W": T, "C": C[None]}, last="LogSoftmax"),
    "gemm with factors": ending([gemm("W", "C", transB=1, alpha=0.5, beta=2.0)], {"W": W, "C": C}),
    "gemm, a bias for all": ending([gemm("W", "C", transB=1)], {"W": W, "C": C[:1]}),
    "gemm without bias": ending([gemm("W", transB=1, alpha=2.0)], {"W": W}, last="Softmax"),
    "matmul and add": ending(biased(1), {"W": T, "C": C}, last="Softmax"),
    "add and matmul": ending(biased(-1), {"W": T, "C": C[None]}),
    "a scalar bias": ending(biased(1), {"W": T, "C": C[0]}),
    "identity behind": ending([gemm("W", "C", transB=1), node("Identity", ["z"], ["y"])], {"W": W, "C": C}),
    "constant nodes": ending([constant("V", T), constant("D", C), gemm("V", "D")], {"W": W}),
    "double": ending([gemm("W", "C", transB=1)], {"W": W.astype(np.float64), "C": C.astype(np.float64)}),
    "old": ending([gemm("W", "C", transB=1)], {"W": W, "C": C}, ir=3),
}
FOLDED["identity behind"].graph.node[0].output[0] = "z"


def logits(model: onnx.ModelProto, x: Array) -> Array:
    """Return y, before a softmax as its logarithm: z up to a number a row."""
    y = run(model, {"x": x})["y"].astype(np.float64)
    last = model.graph.node[-1].op_type
    return np.log(y) if last == "Softmax" else y


def head_of(model: onnx.ModelProto) -> Head:
    found = find_head(model, "y")
    assert isinstance(found, Head), found
    return found


def agree(model: onnx.ModelProto, fit: LogitFit, x: Array, tolerance: float, ndim: int = 2) -> onnx.ModelProto:
    """Check that probabilities are those of z / T + b, and all that has to stay; return the new model."""
    before = model.SerializeToString()
    like = np.zeros((1, 4, 1, 1)[:ndim], x.dtype)
    made = with_logits(model, head_of(model), fit, like)
    assert isinstance(made, onnx.ModelProto), made
    assert model.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    assert list(made.graph.output) == list(model.graph.output)
    assert list(made.graph.input) == list(model.graph.input)
    expected = softmax(fit.on(logits(model, x)), axis=1)
    np.testing.assert_allclose(softmax(logits(made, x), axis=1), expected, rtol=tolerance, atol=tolerance)
    return made


@pytest.mark.parametrize("fit", [ONE, BIAS, BOTH], ids=["temperature", "bias", "both"])
@pytest.mark.parametrize("name", FOLDED)
def test_a_last_layer_with_constants_of_its_own_takes_it_without_a_node(name: str, fit: LogitFit):
    model = FOLDED[name]
    kind = np.float64 if name == "double" else np.float32
    made = agree(model, fit, X.astype(kind), 1e-5)
    assert [n.op_type for n in made.graph.node] == [n.op_type for n in model.graph.node]


def test_a_temperature_leaves_every_decision():
    model = FOLDED["gemm"]
    made = agree(model, ONE, X, 1e-5)
    np.testing.assert_array_equal(logits(made, X).argmax(1), logits(model, X).argmax(1))
    np.testing.assert_allclose(logits(made, X), logits(model, X) / 2.5, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_its_type():
    model = ending([gemm("W", "C", transB=1)], {"W": W.astype(np.float16), "C": C.astype(np.float16)})
    made = agree(model, BOTH, X.astype(np.float16), 1e-2)
    assert {t.data_type for t in made.graph.initializer} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(("fit", "added"), [(ONE, []), (BIAS, ["Add"]), (BOTH, ["Add"])])
def test_a_matmul_without_bias_gets_an_add_alone(fit: LogitFit, added: list[str]):
    for last in ("", "Softmax"):
        model = ending([node("MatMul", ["x", "W"], ["z"], "fc")], {"W": T}, last=last)
        made = agree(model, fit, X, 1e-5)
        assert [n.op_type for n in made.graph.node] == ["MatMul", *added, *([last] if last else [])]


def conv_head(kind: type) -> onnx.ModelProto:
    """A 1 × 1 convolution on (n, 8, 1, 1) and Flatten, as some exporters end."""
    nodes = [
        node("Unsqueeze", ["x", "axes"], ["u"]),
        node("Conv", ["u", "K", "C"], ["c"], "conv"),
        node("Flatten", ["c"], ["z"], "flat"),
    ]
    weights = {"K": W[..., None, None].astype(kind), "C": C.astype(kind), "axes": np.array([2, 3])}
    return ending(nodes, weights)


@pytest.mark.parametrize(("fit", "added"), [(ONE, ["Mul"]), (BIAS, ["Add"]), (BOTH, ["Mul", "Add"])])
def test_other_heads_get_nodes_behind_the_logits(fit: LogitFit, added: list[str]):
    made = agree(conv_head(np.float32), fit, X, 1e-5)
    assert [n.op_type for n in made.graph.node][-len(added) - 1 :] == ["Flatten", *added]
    shared = ending([gemm("W", "C", transB=1), node("Mul", ["q", "C"], ["r"]), node("Add", ["z", "r"], ["y"])],
                    {"W": W, "C": C, "q": C})  # fmt: skip
    shared.graph.node[0].output[0] = "z"
    assert [n.op_type for n in agree(shared, fit, X, 1e-5).graph.node][-len(added) :] == added


def test_classes_on_axis_1_of_an_image_get_a_bias_of_that_shape():
    nodes = [node("Conv", ["x", "K"], ["y"], "conv")]
    model = build(nodes, [value("x", ["n", 8, 3, 3])], [value("y", ["n", 4, 3, 3])], {"K": W[..., None, None]})
    x = normal([2, 8, 3, 3], 5)
    y = run(model, {"x": x})["y"]
    made = with_logits(model, head_of(model), BOTH, y)
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_allclose(run(made, {"x": x})["y"], y / 0.4 + B[:, None, None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in FOLDED if n != "double"])
def test_another_last_layer_is_written_in_place(name: str):
    model = FOLDED[name]
    layer = head_of(model).layer
    assert isinstance(layer, LastLayer)
    fit = LayerFit(normal([4, 8], 8).astype(np.float64), B, 0.25, 1.0)
    made = with_layer(model, layer, fit)
    assert isinstance(made, onnx.ModelProto)
    onnx.checker.check_model(made, full_check=True)
    expected = softmax(0.25 * logits(model, X) + X @ fit.weight.T + B, axis=1)
    np.testing.assert_allclose(softmax(logits(made, X), axis=1), expected, rtol=1e-4, atol=1e-6)
    assert len(made.graph.node) == len(model.graph.node)


def test_of_a_factored_last_layer_the_last_factor_is_found():
    nodes = [node("Gemm", ["x", "V"], ["v"], "first", transB=1), node("Gemm", ["v", "U", "C"], ["z"], "last", transB=1)]
    found = head_of(ending(nodes, {"V": weight((2, 8), 4), "U": weight((4, 2), 5), "C": C})).layer
    assert isinstance(found, LastLayer)
    assert (found.weight, found.data) == ("U", "v")


def with_more(model: onnx.ModelProto, nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.node.extend(nodes)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (with_more(FOLDED["gemm, softmax"], [], ["z"]), "the logits of output 'y' are another output as well ('z')"),
        (with_more(FOLDED["gemm, softmax"], [node("Relu", ["z"], ["r"], "other")], ["r"]), "'other' reads 'z' as well"),
        (with_more(FOLDED["gemm"], [node("ArgMax", ["y"], ["i"])], ["i"]), "ArgMax 'i' reads 'y' as well"),
        (with_more(FOLDED["gemm, softmax"], [node("ArgMax", ["y"], ["i"])], ["i"]), "ArgMax 'i' reads 'y' as well"),
        (ending([gemm("W", "C", transB=1), node("Sigmoid", ["z"], ["y"])], {"W": W, "C": C}), "comes out of a Sigmoid"),
        (ending([gemm("W", "C", transB=1)], {"W": W, "C": C}, opset=6), "opset 6"),
    ],
)
def test_logits_that_cannot_change_alone_are_refused(model: onnx.ModelProto, says: str):
    if model.graph.node[-1].op_type == "Sigmoid":
        model.graph.node[0].output[0] = "z"
    found = find_head(model, "y")
    assert isinstance(found, str)
    assert says in found


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (conv_head(np.float32), "Flatten makes the logits"),
        (with_more(FOLDED["gemm"], [node("Relu", ["W"], ["r"])], ["r"]), "'W' is read by others"),
        (with_more(FOLDED["gemm"], [], ["C"]), "'C' is read by others"),
        (ending([node("Relu", ["W"], ["V"]), gemm("V", transB=1)], {"W": W}), "'V' is not stored as it is read"),
        (ending([gemm("W", beta=0.0, transB=1)], {"W": W}), "factor of 0"),
        (ending(biased(1), {"W": T, "C": normal([1, 1, 4], 3)[:, 0].repeat(1, 0)[:, :1].repeat(6, 0)}), "one number a"),
    ],
)
def test_layers_that_cannot_be_written_are_named(model: onnx.ModelProto, says: str):
    layer = head_of(model).layer
    assert isinstance(layer, str)
    assert says in layer


def test_where_initializers_have_to_be_inputs_new_ones_are():
    model = ending([node("MatMul", ["x", "W"], ["z"], "fc")], {"W": T}, ir=3)
    made = with_logits(model, head_of(model), BOTH, np.zeros((1, 4), np.float32))
    onnx.checker.check_model(made, full_check=True)
    assert [v.name for v in made.graph.input] == ["x", "W", "y.add"]
    np.testing.assert_allclose(logits(made, X), logits(model, X) / 0.4 + B, rtol=1e-5, atol=1e-5)


def test_numbers_that_do_not_fit_are_refused():
    model = ending([gemm("W", "C", transB=1)], {"W": W.astype(np.float16), "C": C.astype(np.float16)})
    found = with_logits(model, head_of(model), LogitFit(1e-6), np.zeros((1, 4), np.float16))
    assert found == "the numbers do not fit into float16"
