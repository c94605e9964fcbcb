"""rewrite: what changes is what was asked for, and everything else of the file stays as it was, byte for byte."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from builders import (
    ANY,
    build,
    constant,
    convnet,
    elements,
    factored,
    found_in,
    linear,
    mlp,
    node,
    normal,
    ops,
    plan_of,
    run,
    value,
    weight,
)
from onnx import TensorProto, helper

from onnx_lowrank.errors import PlanError
from onnx_lowrank.graph.names import all_names
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes.nested_pair import NestedPair

W8 = weight((8, 8), 1)


def initializers(model: onnx.ModelProto) -> dict[str, bytes]:
    return {t.name: t.SerializeToString() for t in model.graph.initializer}


def close(model: onnx.ModelProto, changed: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    """Full rank everywhere: all outputs as before; and the file is a valid model."""
    onnx.checker.check_model(changed, full_check=True)
    expected, got = run(model, feed), run(changed, feed)
    assert expected.keys() == got.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-5)


def decorated() -> onnx.ModelProto:
    """A model with something in every field that a round trip may lose."""
    model = mlp([8, 8, 4], [None, None], 1)
    model.producer_name, model.producer_version, model.domain = "pytorch", "2.9", "org.example"
    model.model_version, model.doc_string = 42, "what the model is for"
    helper.set_model_props(model, {"labels": "cat,dog", "author": "someone"})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graph = model.graph
    graph.doc_string, graph.name = "what the graph is for", "torch_jit"
    graph.input[0].doc_string = "pixels"
    graph.value_info.append(value("h0", ["batch", 8]))
    graph.value_info.append(value("r0", ["batch", 8]))
    entry = graph.metadata_props.add()
    entry.key, entry.value = "graph", "kept"
    for index, each in enumerate(graph.node):
        each.doc_string = f"node {index}"
        entry = each.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name", f"layer{index}"
    function = helper.make_function(
        "local", "Unused", ["x"], ["y"], [node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def test_everything_of_the_file_but_the_site_is_kept():
    model = decorated()
    before = model.SerializeToString(deterministic=True)
    changed = factored(model, {"h0": ("svd", 8)})
    assert model.SerializeToString(deterministic=True) == before, "the original is not touched"
    for field in (
        *("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"),
        *("opset_import", "metadata_props", "functions"),
    ):
        assert getattr(changed, field) == getattr(model, field), field
    for field in ("name", "doc_string", "input", "output", "value_info", "metadata_props"):
        assert getattr(changed.graph, field) == getattr(model.graph, field), field
    old, new = initializers(model), initializers(changed)
    assert {name: new[name] for name in old if name != "fc0"} == {n: b for n, b in old.items() if n != "fc0"}
    assert sorted(set(new) - set(old)) == ["fc0.lowrank0", "fc0.lowrank1"]
    assert list(changed.graph.node[2:]) == list(model.graph.node[1:])
    last = changed.graph.node[1]
    assert (last.op_type, list(last.output), last.doc_string) == ("Gemm", ["h0"], "node 0")
    kept = [entry for entry in last.metadata_props if not entry.key.startswith("onnx_lowrank.")]
    assert kept == list(model.graph.node[0].metadata_props)
    close(model, changed, {"x": normal([3, 8], 0)})


def test_what_is_undone_is_the_original():
    """Take out the new nodes and factors, put back the old: not one byte more has changed."""
    model = decorated()
    changed = factored(model, {"h0": ("svd", 3)})
    del changed.graph.node[:2]
    changed.graph.node.insert(0, model.graph.node[0])
    for tensor in [t for t in changed.graph.initializer if ".lowrank" in t.name]:
        changed.graph.initializer.remove(tensor)
    place = [t.name for t in model.graph.initializer].index("fc0")
    changed.graph.initializer.insert(place, model.graph.initializer[place])
    assert changed.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_a_plan_that_factors_nothing_changes_no_byte():
    model = decorated()
    found = found_in(model)
    same = rewrite(model, found, plan_of({site.id: ("dense", ()) for site in found.sites}, found), {})
    assert same.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_dynamic_dimensions_and_types_stay():
    model = convnet([3, 8], [None], 4, 2)
    changed = factored(model, {"c0": ("kernel-last", 3), "y": ("svd", 4)})
    assert changed.graph.input == model.graph.input
    assert changed.graph.output == model.graph.output
    assert changed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    for count in (1, 5):
        close(model, changed, {"x": normal([count, 3, 8, 8], 1)})


@pytest.mark.parametrize("where", ["initializers", "values", "nodes", "subgraph", "value_info"])
def test_new_names_never_clash(where: str):
    """Everything the tool would call its tensors and nodes is taken already."""
    hints = [
        *("W.lowrank0", "W.lowrank1", "W.lowrank1_2", "z.inner0", "z.inner0_2"),
        *("op.0", "op.1", "op.0_2", "W.lowrank0.zero"),
    ]
    nodes = [node("Gemm", ["x", "W", "b"], ["z"], "op")]
    weights = {"W": W8, "b": normal([8], 2)}
    current = "z"
    if where == "initializers":
        for hint in hints:
            weights[hint] = normal([8], 3)
            nodes.append(node("Add", [current, hint], [f"{hint}_sum"]))
            current = f"{hint}_sum"
    elif where in ("values", "nodes"):
        for hint in hints:
            nodes.append(node("Relu", [current], [hint if where == "values" else f"{hint}_v"], hint))
            current = nodes[-1].output[0]
    elif where == "subgraph":
        inner = [node("Identity" if i else "Relu", [["z", *hints][i]], [hint], hint) for i, hint in enumerate(hints)]
        branches = [
            helper.make_graph(
                [
                    onnx.NodeProto.FromString(n.SerializeToString()) if key == "then_branch" else
                    node("Neg", ["z"], ["other"])
                    for n in (inner if key == "then_branch" else inner[:1])
                ],
                key, [], [value(hints[-1] if key == "then_branch" else "other", [ANY, 8])],
            )
            for key in ("then_branch", "else_branch")
        ]  # fmt: skip
        weights["cond"] = np.array(True)
        nodes.append(node("If", ["cond"], ["last"], "if", then_branch=branches[0], else_branch=branches[1]))
        current = "last"
    nodes.append(node("Relu", [current], ["y"], "end"))
    model = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], weights, opset=9 if where == "nodes" else 17)
    if where == "value_info":
        model.graph.value_info.extend(value(hint, [8]) for hint in hints)
    taken = all_names(model)
    changed = factored(model, {"z": ("svd", 8)})
    first, last = changed.graph.node[:2]
    new = [first.name, last.name, first.output[0], first.input[1], last.input[1], *list(first.input)[2:]]
    assert len(set(new)) == len(new)
    assert not set(new) & taken
    names = [t.name for t in changed.graph.initializer]
    assert len(names) == len(set(names))
    close(model, changed, {"x": normal([2, 8], 4)})


def test_two_sites_whose_names_collide_get_names_of_their_own():
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("MatMul", ["h", "W.lowrank0"], ["h.0"])]
    weights = {"W": W8, "W.lowrank0": W8 + 1}
    model = build(nodes, [value("x", ["n", 8])], [value("h.0", ["n", 8])], weights)
    changed = factored(model, {"h": ("svd", 8), "h.0": ("svd", 8)})
    assert len({n.name for n in changed.graph.node}) == len({n.input[1] for n in changed.graph.node}) == 4
    close(model, changed, {"x": normal([2, 8], 4)})


def test_a_nodes_name_and_another_nodes_output_give_one_hint_and_two_names():
    nodes = [node("MatMul", ["x", "W"], ["h"], "fc"), node("MatMul", ["h", "V"], ["fc"])]
    model = build(nodes, [value("x", ["n", 8])], [value("fc", ["n", 8])], {"W": W8, "V": W8 + 1})
    changed = factored(model, {"h": ("svd", 8), "fc": ("svd", 8)})
    assert len({n.name for n in changed.graph.node}) == 4
    close(model, changed, {"x": normal([2, 8], 4)})


@pytest.mark.parametrize("chain", [0, 1, 3])
@pytest.mark.parametrize("stored", ["initializer", "constant"])
def test_dead_weights_and_what_led_to_them_are_removed(stored: str, chain: int):
    nodes = [constant("W", W8)] if stored == "constant" else []
    names = ["W", *(f"W{i}" for i in range(chain))]
    nodes += [node("Identity", [one], [other], f"id_{other}") for one, other in itertools.pairwise(names)]
    nodes += [node("Relu", ["x"], ["r"]), node("MatMul", ["r", names[-1]], ["y"], "op")]
    model = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], {} if stored == "constant" else {"W": W8})
    model.graph.value_info.extend(value(name, [8, 8]) for name in names)
    changed = factored(model, {"y": ("svd", 8)})
    assert ops(changed) == ["Relu", "MatMul", "MatMul"]
    assert sorted(initializers(changed)) == ["W.lowrank0", "W.lowrank1"]
    assert not changed.graph.value_info
    assert elements(factored(model, {"y": ("svd", 3)})) == 3 * 16
    close(model, changed, {"x": normal([2, 8], 4)})


def test_constants_that_others_read_stay():
    nodes = [
        constant("W", W8), constant("c", normal([8], 1)), node("Identity", ["c"], ["c1"]),
        node("MatMul", ["x", "W"], ["h"], "op"), node("Add", ["h", "c1"], ["y"]),
    ]  # fmt: skip
    model = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], {})
    changed = factored(model, {"h": ("svd", 8)})
    assert ops(changed) == ["Constant", "Identity", "MatMul", "MatMul", "Add"]
    close(model, changed, {"x": normal([2, 8], 4)})


def shared(ir: int = 8) -> onnx.ModelProto:
    nodes = [
        node("Identity", ["W"], ["same"]),
        node("Gemm", ["x", "W", "b"], ["h"], "one", transB=1, alpha=0.5),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "same"], ["y"], "two", transB=1),
    ]
    return build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], {"W": W8, "b": normal([8], 2)}, ir=ir)


def test_a_shared_weight_is_factored_once_and_stored_once():
    model = shared()
    changed = factored(model, {"h": ("svd", 8)})
    assert ops(changed) == ["Gemm", "Gemm", "Relu", "Gemm", "Gemm"]
    assert sorted(initializers(changed)) == ["W.lowrank0", "W.lowrank1", "b"]
    reads = [list(n.input)[1] for n in changed.graph.node if n.op_type == "Gemm"]
    assert reads == ["W.lowrank0", "W.lowrank1"] * 2
    assert elements(factored(model, {"h": ("svd", 3)})) == 3 * 16 + 8
    close(model, changed, {"x": normal([2, 8], 4)})


def test_a_shared_kernel_serves_every_geometry():
    nodes = [
        node("Conv", ["x", "W"], ["h"], "one", pads=[1, 1, 1, 1]),
        node("Conv", ["h", "W", "b"], ["y"], "two", strides=[2, 1], dilations=[1, 2]),
    ]
    model = build(
        nodes, [value("x", ["n", 6, 9, 9])], [value("y", [ANY] * 4)],
        {"W": weight((6, 6, 3, 3), 1), "b": normal([6], 2)},
    )  # fmt: skip
    for scheme in ("kernel-first", "kernel-last"):
        changed = factored(model, {"h": (scheme, 6)})
        assert elements(changed) == 6 * 6 * 9 + 36 + 6
        close(model, changed, {"x": normal([2, 6, 9, 9], 4)})


def test_ir_3_lists_its_initializers_as_inputs():
    model = shared(ir=3)
    changed = factored(model, {"h": ("svd", 8)})
    assert changed.ir_version == 3
    assert [v.name for v in changed.graph.input] == ["x", "b", "W.lowrank0", "W.lowrank1"]
    assert all(v in list(model.graph.input) for v in changed.graph.input[:2])
    close(model, changed, {"x": normal([2, 8], 4)})


def test_double_weights_stay_double():
    nodes = [node("MatMul", ["x", "W"], ["y"], "op")]
    ends = value("x", ["n", 8], TensorProto.DOUBLE), value("y", ["n", 8], TensorProto.DOUBLE)
    model = build(nodes, [ends[0]], [ends[1]], {"W": W8.astype(np.float64)})
    changed = factored(model, {"y": ("svd", 8)})
    assert {t.data_type for t in changed.graph.initializer} == {TensorProto.DOUBLE}
    close(model, changed, {"x": normal([2, 8], 4).astype(np.float64)})


def test_node_order_is_topological_where_the_site_stood():
    model = mlp([8, 8, 8, 4], [None] * 3, 1)
    changed = factored(model, {f"h{i}" if i < 2 else "y": ("svd", 4) for i in range(3)})
    assert ops(changed) == ["Gemm", "Gemm", "Relu", "Gemm", "Gemm", "Relu", "Gemm", "Gemm"]
    close(model, factored(model, {"h0": ("svd", 8), "h1": ("svd", 8), "y": ("svd", 4)}), {"x": normal([2, 8], 3)})


def test_a_foreign_domain_in_the_graph_does_no_harm():
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "op"),
        node("Gelu", ["h"], ["g"], "gelu", domain="com.microsoft"),
        node("MatMul", ["g", "V"], ["y"], "op2"),
    ]
    model = build(
        nodes, [value("x", ["n", 8])], [value("y", [ANY, 8])], {"W": W8, "V": W8 + 1}, domains={"com.microsoft": 1}
    )
    changed = factored(model, {"h": ("svd", 8), "y": ("svd", 8)})
    assert changed.graph.node[2] == model.graph.node[1]
    expected, got = (run(m, {"x": normal([3, 8], 2)})["y"] for m in (model, changed))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_weights_in_subgraphs_keep_what_they_read():
    """A site beside an If that reads other outer weights: only the site goes."""
    branch = [
        helper.make_graph([node(op, ["h", "V"], [f"{op}_out"], op)], op, [], [value(f"{op}_out", [ANY, 8])])
        for op in ("Add", "Sub")
    ]
    nodes = [
        node("MatMul", ["x", "W"], ["h"], "op"),
        node("If", ["cond"], ["y"], "if", then_branch=branch[0], else_branch=branch[1]),
    ]
    weights = {"W": W8, "V": normal([8, 8], 2), "cond": np.array(True)}
    model = build(nodes, [value("x", [8, 8])], [value("y", [ANY, 8])], weights)
    changed = factored(model, {"h": ("svd", 8)})
    assert sorted(initializers(changed)) == ["V", "W.lowrank0", "W.lowrank1", "cond"]
    close(model, changed, {"x": normal([8, 8], 4)})


def test_a_plan_for_another_model_is_a_plan_error():
    found = found_in(shared())
    other = mlp([8, 8, 4], [None, None], 1)
    with pytest.raises(PlanError, match="'W', which cannot be factored in this model"):
        rewrite(other, found_in(mlp([8, 8], [None], 1)), plan_of({"h": ("svd", (2,))}, found), {})


def test_opset_9_gemm_gets_a_zero_bias_where_one_is_required():
    nodes = [node("Gemm", ["x", "W", "b"], ["y"], "op")]
    model = build(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], {"W": W8, "b": normal([8], 2)}, opset=9)
    changed = factored(model, {"y": ("svd", 8)})
    assert [len(n.input) for n in changed.graph.node] == [3, 3]
    close(model, changed, {"x": normal([2, 8], 4)})


def test_a_dead_channel_leaves_no_dust_in_the_factors():
    """Numbers of 1e-25 and less make subnormal products, which are slow: beside the largest entry they are nothing."""
    model = linear(weight((12, 8), 0))
    found = found_in(model)
    first, last = weight((4, 12), 1), np.array(weight((8, 4), 2))
    last[3] = 1e-26 * last[3]
    last[5, 0] = 1e-40
    pair = NestedPair.kept("svd", first, last, np.zeros(5), (4,), owns=None)
    made = rewrite(model, found, plan_of({"y": ("svd", (4,))}, found), {("y", "svd"): pair})
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    kept = last.copy()
    kept[3], kept[5, 0] = 0, 0
    np.testing.assert_array_equal(stored["W.lowrank0"], first.T)
    np.testing.assert_array_equal(stored["W.lowrank1"], kept.T)
