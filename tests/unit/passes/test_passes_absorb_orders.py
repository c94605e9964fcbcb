"""Orders that a Gather sets, put into constants: which numbers go where, what stays as it was, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from builders import ANY, build, constant, found_in, node, normal, plan_of, run, value
from onnx import helper, numpy_helper

from onnx_lowrank.passes.absorb_orders import absorb_orders
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes.product import product
from onnx_lowrank.types import Array, Chain, Ranks, Stage

C = 4
W, V = normal((C, C), 1), normal((C, 3), 2)
B = np.arange(C, dtype=np.float32)
ORDER = np.array([2, 0, 3, 1])
X = normal((2, 2, C), 9)


def op(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return node(kind, inputs.split(), [output], output, **attributes)


def ordered(
    between: Sequence[onnx.NodeProto] = (), *, end: str = "a", opset: int = 17, ir: int = 8, **weights: Array
) -> onnx.ModelProto:
    """x -> MatMul -> h -> Gather -> g -> Add b -> a, nodes, from `end` -> MatMul -> y."""
    nodes = [op("MatMul", "x W", "h"), op("Gather", "h order", "g", axis=2), op("Add", "g b", "a"), *between]
    nodes.append(op("MatMul", f"{end} V", "y"))
    stored = {"W": W, "order": ORDER, "b": B, "V": V, **weights}
    return build(nodes, [value("x", ["n", 2, C])], [value("y", ["n", 2, 3])], stored, opset=opset, ir=ir)


def numbers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def kinds(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def absorbed(model: onnx.ModelProto, *orders: str, x: Array = X) -> onnx.ModelProto:
    """Return the model without these orders, having seen that it computes the same and is valid."""
    changed, gone = absorb_orders(model, orders)
    assert gone == set(orders)
    onnx.checker.check_model(changed, full_check=True)
    same(changed, model, x)
    return changed


def same(changed: onnx.ModelProto, model: onnx.ModelProto, x: Array) -> None:
    got, expected = run(changed, {"x": x}), run(model, {"x": x})
    assert list(got) == list(expected)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)


def left_alone(model: onnx.ModelProto, order: str = "g") -> None:
    changed, gone = absorb_orders(model, [order])
    assert gone == frozenset()
    assert changed is model


def test_numbers_go_where_their_channels_are():
    """g_i = h_(order i), so what belongs to channel i of g belongs to channel order(i) of h."""
    changed = absorbed(ordered(), "g")
    now = numbers(changed)
    assert [now["b"][ORDER[i]] for i in range(C)] == B.tolist()
    np.testing.assert_array_equal(now["V"][ORDER], V)
    np.testing.assert_array_equal(now["W"], W)
    assert kinds(changed) == ["MatMul", "Add", "MatMul"]
    assert list(changed.graph.node[1].input) == ["h", "b"]


def test_backwards_numbers_go_the_other_way():
    """Where what reads the Gather sees the order, what makes its data gives it so."""
    model = ordered([op("CumSum", "a two", "s")], end="s", two=np.int64(2))
    changed = absorbed(model, "g")
    now = numbers(changed)
    np.testing.assert_array_equal(now["W"], W[:, ORDER])
    np.testing.assert_array_equal(now["b"], B)


def test_the_model_that_is_given_stays_and_the_rest_of_the_file_too():
    model = onnx.shape_inference.infer_shapes(ordered([op("Relu", "a", "r")], end="r"))
    model.graph.node[3].doc_string = "rectified"
    helper.set_model_props(model, {"kept": "yes"})
    model.graph.initializer[2].doc_string = "bias"
    before = model.SerializeToString()
    changed = absorbed(model, "g")
    assert model.SerializeToString() == before
    assert changed.metadata_props == model.metadata_props
    assert [n for n in changed.graph.node if n.name != "a"] == [n for n in model.graph.node if n.name not in "ga"]
    assert [t.name for t in changed.graph.initializer] == ["W", "b", "V"]
    assert changed.graph.initializer[1].doc_string == "bias"
    assert [v.name for v in changed.graph.value_info] == ["h", "a", "r"]
    assert (changed.graph.input, changed.graph.output) == (model.graph.input, model.graph.output)


def test_before_ir_4_inputs_list_what_is_stored():
    model = ordered([op("Neg", "b", "n")], ir=3, opset=8)
    changed = absorbed(model, "g")
    assert {v.name for v in changed.graph.input} == {"x", "W", "V", "b", "b.ordered"}
    assert set(numbers(changed)) == {"W", "V", "b", "b.ordered"}


def test_a_constant_that_others_read_gets_a_copy():
    model = ordered([op("Neg", "b", "n")])
    model.graph.output.append(value("n", [C]))
    changed = absorbed(model, "g")
    np.testing.assert_array_equal(numbers(changed)["b"], B)
    np.testing.assert_array_equal(numbers(changed)["b.ordered"][ORDER], B)


def test_indices_that_others_read_stay():
    changed = absorbed(ordered([op("Neg", "order", "n")]), "g")
    np.testing.assert_array_equal(numbers(changed)["order"], ORDER)
    assert kinds(changed) == ["MatMul", "Add", "Neg", "MatMul"]


def test_indices_that_pick_an_operand_as_well():
    """That one is put in the other order by indices of its own."""
    model = ordered([op("Gather", "table order", "t", axis=0), op("Add", "a t", "z")], end="z", table=normal((9,), 1))
    changed = absorbed(model, "g")
    assert kinds(changed) == ["MatMul", "Add", "Gather", "Add", "MatMul"]
    assert list(changed.graph.node[2].input) == ["table", "order.ordered"]
    assert "order" not in numbers(changed)


def test_constants_in_nodes():
    stored = {"order": ORDER, "b": B, "V": V}
    nodes = [*(constant(name, array) for name, array in stored.items()), *ordered().graph.node]
    nodes[1].doc_string = "kept"
    model = build(nodes, [value("x", ["n", 2, C])], [value("y", ["n", 2, 3])], {"W": W})
    changed = absorbed(model, "g")
    assert kinds(changed) == ["Constant", "Constant", "MatMul", "Add", "MatMul"]
    assert changed.graph.node[0].doc_string == "kept"
    np.testing.assert_array_equal(numpy_helper.to_array(changed.graph.node[0].attribute[0].t)[ORDER], B)


def test_negative_indices():
    absorbed(ordered(order=np.array([-2, 0, -1, 1])), "g")


def test_weights_on_an_integer_grid():
    rng = np.random.default_rng(1)
    between = [op("DequantizeLinear", "Q s z", "U", axis=0), op("MatMul", "a U", "u")]
    stored = {"Q": rng.integers(-9, 9, (C, C)).astype(np.int8), "s": np.arange(1, C + 1, dtype=np.float32) / 10}
    changed = absorbed(ordered(between, end="u", **stored, z=np.arange(C).astype(np.int8)), "g")
    for name in stored:
        np.testing.assert_array_equal(numbers(changed)[name][ORDER], stored[name])


def test_two_orders_in_a_row():
    changed = absorbed(
        ordered([op("Gather", "a again", "k", axis=-1)], end="k", again=np.array([1, 3, 0, 2])), "g", "k"
    )
    assert kinds(changed) == ["MatMul", "Add", "MatMul"]


def test_one_order_goes_and_one_stays():
    nodes = [op("CumSum", "a two", "s"), op("Gather", "s again", "k", axis=2), op("Add", "k a", "z")]
    model = ordered(nodes, end="z", two=np.int64(2), again=np.array([1, 0, 2, 3]))
    changed, gone = absorb_orders(model, ["k", "g"])
    assert gone == {"g"}
    same(changed, model, X)


def test_a_constant_keeps_its_order_along_an_axis_that_is_kept():
    """V reads the channels along its first axis; kept along the other one it may follow."""
    changed, gone = absorb_orders(ordered(), ["g"], kept={"V": -1})
    assert gone == {"g"}
    same(changed, ordered(), X)
    changed, gone = absorb_orders(ordered(), ["g"], kept={"V": -2})
    assert gone == {"g"}  # what comes before can take the order instead
    np.testing.assert_array_equal(numbers(changed)["V"], V)
    same(changed, ordered(), X)
    changed, gone = absorb_orders(ordered(), ["g"], kept={"V": -2, "W": -1})
    assert gone == frozenset()


def returned(name: str) -> onnx.ModelProto:
    model = ordered()
    model.graph.output.append(value(name, ["n", 2, C]))
    return model


def read_in_a_body() -> onnx.ModelProto:
    inner = helper.make_graph([node("Neg", ["g"], ["n"])], "body", [], [value("n", [ANY, ANY, ANY])])
    model = ordered([node("If", ["yes"], ["i"], then_branch=inner, else_branch=inner)], yes=np.bool_(True))
    model.graph.output.append(value("i", [ANY, ANY, ANY]))
    return model


def computed_indices() -> onnx.ModelProto:
    nodes = list(ordered().graph.node)
    nodes.insert(0, op("Abs", "stored", "order"))
    return build(nodes, [value("x", ["n", 2, C])], [value("y", ["n", 2, 3])], {"W": W, "V": V, "b": B, "stored": ORDER})


STAY = {
    "it is an output": returned("g"),
    "a body reads it": read_in_a_body(),
    "its data are in its own region": ordered([op("Add", "a h", "z")], end="z"),
    "its indices are computed": computed_indices(),
    "its indices repeat": ordered(order=np.array([0, 0, 1, 2])),
    "its indices are not all": ordered(order=np.array([0, 1, 3]), b=B[:3], V=V[:3]),
    "its indices have two axes": ordered(
        [op("Squeeze", "a ax", "z")], end="z", order=ORDER[None], ax=np.array([2]), b=B
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_an_order_stays(name: str):
    left_alone(STAY[name])


@pytest.mark.parametrize("name", ["h", "nowhere", ""])
def test_what_is_no_order_stays(name: str):
    left_alone(ordered(), name)


def test_nothing_to_do():
    model = ordered()
    assert absorb_orders(model, []) == (model, frozenset())


class Fixed:
    """Factors that are one chain."""

    scheme = "svd"

    def __init__(self, chain: Chain) -> None:
        self.made = chain

    def error(self, ranks: Ranks) -> float:
        return 0.0

    def chain(self, ranks: Ranks) -> Chain:
        return self.made

    def dense(self, ranks: Ranks) -> Array:
        return product(self.made)


def rewritten(model: onnx.ModelProto, kernel: int) -> onnx.ModelProto:
    """Return the model with its first site as a chain whose rows 3 and 1 pass."""
    inventory = found_in(model)
    site = inventory.sites[0]
    spatial = (kernel, kernel)[: len(site.shape) - 2]
    first = Stage(normal((2, site.shape[1], *spatial), 1), tuple(range(len(spatial))))
    last = Stage(normal((C - 2, 2, *(1 for _ in spatial)), 2), passed=(3, 1))
    plan = plan_of({site.id: ("svd", (2,))}, inventory)
    return rewrite(model, inventory, plan, {(site.id, "svd"): Fixed(Chain((first, last)))})


def gathers(model: onnx.ModelProto) -> list[str]:
    return [n.output[0] for n in model.graph.node if n.op_type == "Gather"]


def test_what_a_chain_with_passing_rows_ends_in():
    nodes = [op("Gemm", "x W b", "h", transB=1, alpha=0.5), op("Erf", "h", "e"), op("Mul", "h e", "g")]
    nodes.append(op("Gemm", "g V", "y"))
    stored = {"W": normal((C, 8), 1), "b": B, "V": V}
    model = rewritten(build(nodes, [value("x", ["n", 8])], [value("y", ["n", 3])], stored), 1)
    assert len(gathers(model)) == 1
    assert gathers(absorbed(model, *gathers(model), x=normal((3, 8), 3))) == []


def test_the_same_of_a_convolution_with_bias():
    """Its bias goes through a Reshape, which the chain writes."""
    nodes = [op("Conv", "x W b", "h", pads=[1, 1, 1, 1]), op("Relu", "h", "r"), op("Conv", "r V", "y")]
    stored = {"W": normal((C, 5, 3, 3), 1), "b": B, "V": normal((2, C, 1, 1), 2)}
    model = rewritten(build(nodes, [value("x", ["n", 5, 6, 6])], [value("y", ["n", 2, 6, 6])], stored), 3)
    assert len(gathers(model)) == 1
    assert gathers(absorbed(model, *gathers(model), x=normal((1, 5, 6, 6), 3))) == []
