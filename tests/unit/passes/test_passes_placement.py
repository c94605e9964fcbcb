"""Where the identity of interpolative factors goes: neighbours take the order, else rows in a run, else a Gather."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from builders import ANY, build, factored, found_in, halved, mlp, node, normal, run, value, weight

from onnx_lowrank.passes import placement
from onnx_lowrank.passes.free_orders import FreeOrders


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(each.op_type for each in model.graph.node)


def sites(model: onnx.ModelProto) -> dict[str, str]:
    """Weight -> site id."""
    return {site.weight: site.id for site in found_in(model).sites}


def both(model: onnx.ModelProto, ranks: dict[str, int], x: np.ndarray, scheme: str = "svd") -> onnx.ModelProto:
    """Return the model with interpolative factors, having compared it with plain ones."""
    ids = sites(model)
    picks = {ids[name]: (scheme, rank) for name, rank in ranks.items()}
    made = factored(model, picks, interpolative=True)
    onnx.checker.check_model(made, full_check=True)
    expected = run(factored(model, picks), {"x": x})
    for name, got in run(made, {"x": x}).items():
        np.testing.assert_allclose(got, expected[name], rtol=1e-4, atol=1e-5)
    return made


def hidden(*, shown: bool) -> onnx.ModelProto:
    """x W1 + b1, Relu, W2; `shown`: what is hidden is an output as well."""
    nodes = [
        node("MatMul", ["x", "W1"], ["h0"]), node("Add", ["h0", "b1"], ["h1"]), node("Relu", ["h1"], ["h"]),
        node("MatMul", ["h", "W2"], ["y"]),
    ]  # fmt: skip
    weights = {"W1": weight((12, 24), 1), "b1": normal([24], 2), "W2": weight((24, 10), 3)}
    outputs = [value("y", [ANY, 10]), *([value("h", [ANY, 24])] if shown else [])]
    return build(nodes, [value("x", [ANY, 12])], outputs, weights)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring rows never do."""
    monkeypatch.setattr(placement, "RUN_BOUND", 0.0)


@pytest.mark.usefixtures("strict")
def test_a_hidden_layer_takes_any_order():
    model = hidden(shown=False)
    made = both(model, {"W1": 9}, normal([5, 12], 4))
    assert kinds(made) == kinds(model) + Counter(MatMul=1, Concat=1)
    bias = next(t for t in made.graph.initializer if t.name == "b1")
    old = next(t for t in model.graph.initializer if t.name == "b1")
    new, old = onnx.numpy_helper.to_array(bias), onnx.numpy_helper.to_array(old)
    assert sorted(new) == sorted(old)
    assert list(new) != list(old)


@pytest.mark.usefixtures("strict")
def test_what_the_graph_returns_keeps_its_order():
    model = hidden(shown=True)
    made = both(model, {"W1": 9}, normal([5, 12], 4))
    assert kinds(made) == kinds(model) + Counter(MatMul=1, Concat=1, Gather=1)


@pytest.mark.usefixtures("strict")
def test_of_two_orders_in_one_tensor_the_first_has_its_own():
    """W2 has the outputs in its own order: they are the graph's, so it needs a Gather, and W1 does not."""
    model = hidden(shown=False)
    made = both(model, {"W1": 9, "W2": 8}, normal([5, 12], 4))
    assert kinds(made) == kinds(model) + Counter(MatMul=2, Concat=2, Gather=1)


@pytest.mark.usefixtures("strict")
def test_inputs_take_any_order_where_the_outputs_cannot():
    model = hidden(shown=False)
    made = both(model, {"W2": 8}, normal([5, 12], 4))
    assert kinds(made) == kinds(model) + Counter(MatMul=1, Split=1, Add=1)


def test_neighbouring_rows_need_no_gather(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(placement, "RUN_BOUND", 1e6)
    model = hidden(shown=True)
    made = both(model, {"W1": 9}, normal([5, 12], 4))
    assert kinds(made)["Gather"] == 0
    assert kinds(made)["Concat"] == 1


def test_neighbouring_rows_have_a_lower_bound_in_half_precision(monkeypatch: pytest.MonkeyPatch):
    asked: list[float] = []

    def run_of_rows(U, bound):
        asked.append(bound)

    monkeypatch.setattr(placement, "run_of_rows", run_of_rows)
    for model in (hidden(shown=True), halved(hidden(shown=True))):
        factored(model, {sites(model)["W1"]: ("svd", 9)}, interpolative=True)
    assert set(asked[:2]) == {placement.RUN_BOUND}
    assert set(asked[2:]) == {placement.NARROW_BOUND}
    assert len(asked) == 4  # of either side


CONV = {"W": weight((12, 6, 3, 3), 1), "b": normal([12], 2), "U": weight((5, 12, 1, 1), 3)}


def conv(bias: str = "b") -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "W", bias], ["h0"], pads=[1, 1, 1, 1]), node("Relu", ["h0"], ["h"]),
        node("Conv", ["h", "U"], ["y"]),
    ]  # fmt: skip
    given = [value("x", [ANY, 6, 7, 7]), *([] if bias == "b" else [value(bias, [12])])]
    return build(nodes, given, [value("y", [ANY, 5, 7, 7])], CONV)


def test_a_constant_bias_is_part_of_both_stages():
    made = both(conv(), {"W": 7}, normal([2, 6, 7, 7], 4), "kernel-first")
    assert kinds(made) == Counter(Conv=3, Relu=1, Concat=1)
    assert "b" not in {tensor.name for tensor in made.graph.initializer}
    assert [len(each.input) for each in made.graph.node if each.op_type == "Conv"] == [3, 3, 2]


def test_a_bias_that_is_given_comes_after():
    model, x = conv("given"), {"x": normal([2, 6, 7, 7], 4), "given": normal([12], 5)}
    picks = {sites(model)["W"]: ("kernel-first", 7)}
    made = factored(model, picks, interpolative=True)
    np.testing.assert_allclose(run(made, x)["y"], run(factored(model, picks), x)["y"], rtol=1e-4, atol=1e-5)
    assert kinds(made)["Add"] == 1


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1, "alpha": 3.0}])
def test_the_scale_and_the_bias_of_a_gemm(attributes: dict):
    W = weight((12, 10), 1)
    weights = {"W": W.T.copy() if attributes.get("transB") else W, "c": normal([10], 2)}
    nodes = [node("Gemm", ["x", "W", "c"], ["y"], **attributes)]
    model = build(nodes, [value("x", [ANY, 12])], [value("y", [ANY, 10])], weights)
    made = both(model, {"W": 6}, normal([4, 12], 3))
    assert not {"Add", "Mul"} & set(kinds(made))


def test_inputs_whose_order_another_has_set_are_cut_where_the_outputs_will_not_do():
    """Of a kernel that comes last only the inputs have an identity; what they are cut from stays in its order then."""
    nodes = [
        node("Conv", ["x", "A"], ["h0"]), node("Relu", ["h0"], ["h"]),
        node("Conv", ["h", "K"], ["y"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    weights = {"A": weight((16, 8, 1, 1), 1), "K": weight((10, 16, 3, 3), 2)}
    model = build(nodes, [value("x", [ANY, 8, 6, 6])], [value("y", [ANY, 10, 6, 6])], weights)
    ids, x = sites(model), {"x": normal([2, 8, 6, 6], 3)}
    picks = {ids["A"]: ("svd", 6), ids["K"]: ("kernel-last", 8)}
    made = factored(model, picks, interpolative=True)
    stored = {tensor.name: list(tensor.dims) for tensor in made.graph.initializer}
    assert stored["K.lowrank0"] == [8, 8, 1, 1]
    assert stored["A.lowrank1"] == [10, 6, 1, 1]
    np.testing.assert_allclose(run(made, x)["y"], run(factored(model, picks), x)["y"], rtol=1e-4, atol=1e-5)


def test_bodies_and_shared_weights_have_no_free_order():
    model = mlp([8, 12, 6], [None, None], 0)
    inventory = found_in(model)
    first = inventory.sites[0]
    calls = inventory.calls[first.id]
    assert set(FreeOrders(model).sides(first, calls)) == {"out"}
    assert FreeOrders(model).sides(first, (*calls, *calls)) == {}
    taken = FreeOrders(model)
    taken.keep(first.id)
    assert taken.sides(first, calls) == {}
