"""What is differentiated and what is not, by name; interface, names, memory."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from gradient_finite import Case, check, draw, function, gradients, ints, node
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.gradient import GradientRunner, build_gradient, final_activation, observed_ranks, split_gradient
from onnx_lowrank.gradient.build import share_name
from onnx_lowrank.gradient.fused import EXPANSIONS
from onnx_lowrank.gradient.rules.table import RULES
from onnx_lowrank.gradient.tensor_ranks import unknown_ranks
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner


def test_only_the_slice_between_targets_and_loss_is_differentiated():
    nodes = [
        node("Exp", ["x"], ["early"]),
        node("MatMul", ["early", "w"], ["site"]),
        node("Tanh", ["site"], ["y"]),
        node("Sin", ["site"], ["aside"]),
    ]
    case = Case(nodes, {"x": draw(0, 2, 3)}, {"w": draw(1, 3, 4)}, outputs=("y", "aside"))
    graph = build_gradient(case.model, ["site"], ["y"])
    made = [n.op_type for n in graph.model.graph.node if n.name in graph.backward]
    assert sorted(made) == ["Mul", "Mul", "Sub"]
    assert [v.name for v in graph.model.graph.output] == ["y", "aside", "gradient@site"]
    assert [v.name for v in graph.model.graph.input] == ["x", "grad@y"]


def test_an_operator_without_a_rule_cuts_what_is_above_it_and_nothing_else():
    nodes = [
        node("Relu", ["x"], ["above"]),
        node("Det", ["above"], ["cut"]),
        node("Unsqueeze", ["cut", "axes"], ["wide"]),
        node("Mul", ["wide", "x"], ["below"]),
        node("Tanh", ["below"], ["y"]),
    ]
    case = Case(nodes, {"x": draw(0, 2, 3, 3)}, {"axes": ints(1, 2)})
    graph = build_gradient(case.model, ["above", "cut", "below", "x"])
    assert set(graph.gradients) == {"below", "cut"}
    # x has another path to the loss, but its gradient would not be whole.
    assert graph.unreached == {"above": "no rule for Det", "x": "no rule for Det"}


def test_a_rule_that_declines_says_why():
    case = Case([node("MaxPool", ["x"], kernel_shape=[2], storage_order=1)], {"x": draw(0, 1, 1, 4)})
    graph = build_gradient(case.model, ["x"])
    assert graph.unreached == {"x": "no rule for this MaxPool: column-major indices"}


def test_integer_and_boolean_paths_are_cut_silently():
    nodes = [
        node("Greater", ["x", "zero"], ["mask"]),
        node("Cast", ["mask"], ["number"], to=TensorProto.DOUBLE),
        node("Mul", ["x", "number"], ["y"]),
        node("ArgMax", ["x"], ["place"]),
        node("Cast", ["place"], ["z"], to=TensorProto.DOUBLE),
    ]
    case = Case(nodes, {"x": draw(0, 2, 3)}, {"zero": np.array(0.0)}, outputs=("y", "z"))
    check(case, rtol=1e-6, seed=0)
    only = build_gradient(case.model, ["x"], ["z"])
    assert only.unreached == {"x": "no differentiable path"}


def test_a_target_off_the_path_to_the_loss():
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["aside"])]
    graph = build_gradient(Case(nodes, {"x": draw(0, 3)}).model, ["aside", "nowhere"])
    assert graph.unreached == {"aside": "no differentiable path", "nowhere": "no differentiable path"}


def test_a_target_that_is_an_output_and_one_that_is_used_after():
    nodes = [node("Tanh", ["x"], ["y"]), node("Exp", ["y"], ["z"])]
    case = Case(nodes, {"x": draw(0, 3)}, outputs=("y", "z"))
    graph = build_gradient(case.model, ["y", "z"])
    _, z = function(case.model, ["y", "z"], reference=False)(case.inputs)
    one, two = np.full(3, 2.0), np.full(3, 3.0)
    found = Runner(graph.model, runtime=Runtime(provider="cpu")).run(
        {**case.inputs, graph.seeds["y"]: one, graph.seeds["z"]: two}
    )
    np.testing.assert_allclose(found[graph.gradients["z"]], two, rtol=1e-12)
    np.testing.assert_allclose(found[graph.gradients["y"]], one + two * z, rtol=1e-12)


def test_two_targets_with_one_gradient():
    nodes = [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["b"]), node("Exp", ["b"], ["y"])]
    check(Case(nodes, {"x": draw(0, 3)}), rtol=1e-6, seed=0)
    graph = build_gradient(Case(nodes, {"x": draw(0, 3)}).model, ["a", "b"])
    assert graph.gradients["a"] == graph.gradients["b"]  # one output: nothing is copied
    Runner(graph.model, runtime=Runtime(provider="cpu"))  # which refuses a graph that is not sound


@pytest.mark.parametrize("op", ["If", "Loop"])
def test_control_flow_has_no_rule(op):
    """Also where a body reads the tensor from outside."""
    inner = helper.make_tensor_value_info("inner", TensorProto.DOUBLE, None)
    body = helper.make_graph([node("Exp", ["h"], ["inner"])], "body", [], [inner])
    if op == "If":
        made = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    else:
        going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
        out = helper.make_tensor_value_info("going_out", TensorProto.BOOL, [])
        steps = helper.make_tensor_value_info("step", TensorProto.INT64, [])
        nodes = [node("Exp", ["h"], ["inner"]), node("Identity", ["going"], ["going_out"])]
        body = helper.make_graph(nodes, "body", [steps, going], [out, inner])
        made = helper.make_node("Loop", ["n", "yes"], ["y"], body=body)
    constants = {"yes": np.array(True), "n": np.array(2, np.int64)}
    case = Case([node("Relu", ["x"], ["h"]), made], {"x": draw(0, 2)}, constants)
    graph = build_gradient(case.model, ["h"])
    assert graph.unreached == {"h": f"no rule for {op}"}


def test_names_that_are_taken_stay():
    """Seeds, gradients and nodes get other names where the model, or a subgraph of it, has theirs."""
    inner = helper.make_tensor_value_info("gradient/Mul", TensorProto.DOUBLE, None)
    body = helper.make_graph([node("Exp", ["grad@y"], ["gradient/Mul"])], "body", [], [inner])
    nodes = [
        node("Tanh", ["x"], ["grad@y"]),
        node("Mul", ["grad@y", "grad@y"], ["gradient@x"]),
        node("Exp", ["gradient@x"], ["y"]),
        helper.make_node("If", ["yes"], ["side"], then_branch=body, else_branch=body),
    ]
    case = Case(nodes, {"x": draw(0, 3)}, {"yes": np.array(True)}, outputs=("y", "side"))
    graph = build_gradient(case.model, ["x"], ["y"])
    Runner(graph.model, runtime=Runtime(provider="cpu"))  # which refuses a graph that is not sound
    names = [name for n in graph.model.graph.node for name in n.output]
    assert len(names) == len(set(names))
    assert "gradient/Mul" not in names
    only = Case(nodes[:3], {"x": draw(0, 3)})
    check(only, rtol=1e-6, seed=0)


def test_a_local_function_is_inlined():
    function_ = helper.make_function(
        "mine",
        "Twice",
        ["a"],
        ["b"],
        [node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2.0))), node("Mul", ["a", "two"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    case = Case(
        [node("Tanh", ["x"], ["h"]), node("Twice", ["h"], ["y"], domain="mine")],
        {"x": draw(0, 3)},
        domains=(("mine", 1),),
    )
    model = case.model
    model.functions.append(function_)
    graph = build_gradient(model, ["x", "h"])
    assert not graph.unreached
    feed = {**case.inputs, graph.seeds["y"]: np.ones(3)}
    found = Runner(graph.model, runtime=Runtime(provider="cpu")).run(feed)
    np.testing.assert_allclose(found[graph.gradients["h"]], np.full(3, 2.0), rtol=1e-12)


def test_weights_in_constant_nodes():
    """A Paddle export has every weight in a Constant node."""
    weight = numpy_helper.from_array(draw(1, 40, 40))
    nodes = [node("Constant", [], ["w"], value=weight), node("MatMul", ["x", "w"], ["h"]), node("Tanh", ["h"], ["y"])]
    case = Case(nodes, {"x": draw(0, 2, 40)})
    graph = check(case, rtol=1e-6, seed=0)
    assert "w" in {t.name for t in graph.model.graph.initializer}


def test_the_model_is_not_changed():
    case = Case([node("MaxPool", ["x"], kernel_shape=[2]), node("Cast", ["y"], ["z"], to=1)], {"x": draw(0, 1, 1, 4)})
    model = case.model
    before = model.SerializeToString(deterministic=True)
    build_gradient(model, ["x"])
    assert model.SerializeToString(deterministic=True) == before


def test_what_the_file_says_of_intermediate_shapes_is_not_trusted():
    """Exporters leave the shapes of the traced sample behind; a batch of another size must work."""
    case = Case([node("Relu", ["x"], ["h"]), node("Mul", ["h", "s"], ["y"])], {"x": draw(0, 4, 3), "s": draw(1, 4, 3)})
    model = case.model
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.DOUBLE, [1, 3]))
    graph = build_gradient(model, ["h"])
    feed = {**case.inputs, graph.seeds["y"]: np.ones((4, 3))}
    found = Runner(graph.model, runtime=Runtime(provider="cpu")).run(feed)[graph.gradients["h"]]
    np.testing.assert_allclose(found, case.inputs["s"], rtol=1e-12)


def test_ranks_that_only_a_run_knows():
    """The rank of this Reshape is that of an input's value: shape inference cannot know it."""
    nodes = [node("Reshape", ["x", "shape"], ["h"]), node("Relu", ["h"], ["k"]), node("MatMul", ["k", "w"], ["y"])]
    case = Case(nodes, {"x": draw(0, 6, 4), "shape": ints(2, 3, 4)}, {"w": draw(1, 4, 2)})
    model = case.model
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = "r"
    assert unknown_ranks(model) == ["h", "k", "y"]
    blind = build_gradient(model, ["k"])
    assert "rank of" in blind.unreached["k"]
    shapes = observed_ranks(model, case.inputs, runtime=Runtime(provider="cpu", threads=1))
    assert shapes == dict.fromkeys(("h", "k", "y"), (None, None, None))
    graph = build_gradient(model, ["h"], shapes=shapes)
    assert not graph.unreached
    x = draw(2, 4, 4)
    feed = {"x": x, "shape": ints(1, 4, 4), graph.seeds["y"]: np.ones((1, 4, 2))}
    found = Runner(graph.model, runtime=Runtime(provider="cpu")).run(feed)[graph.gradients["h"]]
    want = (x > 0) * case.constants["w"].sum(axis=1)
    np.testing.assert_allclose(found[0], want, rtol=1e-12)


def test_gelu_of_opset_20_and_a_reduction_of_opset_18_in_one_model():
    nodes = [node("Gelu", ["x"], ["h"]), node("ReduceMean", ["h", "axes"], keepdims=0)]
    check(Case(nodes, {"x": draw(0, 3, 4)}, {"axes": ints(1)}, opset=20, reference=True), rtol=1e-6, seed=0)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17, 21])
def test_one_network_in_every_opset(opset):
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["c"], ["d"]),
        node("Gemm", ["d", "v", "u"], ["e"], transB=1),
        node("Softmax", ["e"], ["y"], axis=1),
    ]
    constants = {"w": draw(1, 2, 1, 3, 3), "v": draw(2, 3, 8), "u": draw(3, 3)}
    case = Case(nodes, {"x": draw(0, 2, 1, 4, 4)}, constants, opset, static=True, single=True, step=3e-3)
    check(case, rtol=3e-3, seed=0)


def test_weights_are_not_copied_more_often_than_needed():
    """Model, gradient graph, transposed or flipped kernels: nothing else as large as the weights stays or passes by."""
    import tracemalloc

    size, layers = 256, 12
    nodes, constants, last = [], {}, "x"
    for i in range(layers):
        constants[f"w{i}"] = draw(i, size, size)
        nodes += [node("MatMul", [last, f"w{i}"], [f"h{i}"]), node("Relu", [f"h{i}"], [f"r{i}"])]
        last = f"r{i}"
    model = Case(nodes, {"x": draw(0, 2, size)}, constants, outputs=(last,)).model
    tracemalloc.start()
    graph = build_gradient(model, [f"h{i}" for i in range(layers)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    weights = 8 * size * size * layers
    # protobuf's own memory is not Python's: what Python holds beside it stays small, and the graph holds weights once.
    assert graph.model.ByteSize() < 1.05 * weights
    assert peak < 0.5 * weights


def test_halves_give_what_the_whole_gives():
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Mul", ["r", "s"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    case = Case(nodes, {"x": draw(0, 2, 3, 4), "s": draw(2, 3, 5)}, {"w": draw(1, 4, 5)})
    graph, seeds, want = gradients(case, targets=["x", "s"], rng=np.random.default_rng(5))
    runner = GradientRunner(graph, keep=["h"], runtime=Runtime(provider="cpu", threads=1))
    seen = {}

    def head(values):
        seen.update(values)
        return seeds

    found = runner.run(case.inputs, head)
    for name, gradient in want.items():
        np.testing.assert_allclose(found.gradients[name], gradient, rtol=1e-12)
    assert set(seen) == {"y", "h"}
    np.testing.assert_allclose(seen["h"], case.inputs["x"] @ case.constants["w"], rtol=1e-12)
    assert set(found.gradients) == {"x", "s"}


def test_the_backward_half_holds_no_forward_operator_and_keeps_no_tensor_for_its_shape():
    nodes = [node("Add", ["x", "b"], ["h"]), node("ReduceMean", ["h"], ["y"], axes=[0])]
    case = Case(nodes, {"x": draw(0, 3, 4), "b": draw(1, 1, 4)})
    graph = build_gradient(case.model, ["x", "b"])
    halves = split_gradient(graph)
    assert [n.op_type for n in halves.forward.graph.node][:2] == ["Add", "ReduceMean"]
    assert not {n.op_type for n in halves.backward.graph.node} & {"Add", "ReduceMean", "Size"}
    assert not set(halves.residuals) & {"x", "h", "y", "b"}


@pytest.mark.parametrize(
    ("nodes", "kind", "tensor"),
    [
        ([node("Relu", ["x"], ["h"]), node("Softmax", ["h"])], "softmax", "h"),
        ([node("LogSoftmax", ["x"], ["h"]), node("Identity", ["h"])], "log_softmax", "x"),
        ([node("Sigmoid", ["x"], ["h"]), node("Cast", ["h"], to=11)], "sigmoid", "x"),
        ([node("Relu", ["x"])], "none", "y"),
    ],
)
def test_the_final_activation(nodes, kind, tensor):
    final = final_activation(Case(nodes, {"x": draw(0, 2, 3)}).model, "y")
    assert (final.kind, final.tensor) == (kind, tensor)


def test_seeds_before_the_softmax():
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("Softmax", ["z"])]
    case = Case(nodes, {"x": draw(0, 2, 3)}, {"w": draw(1, 3, 4)})
    model = case.model
    graph = build_gradient(model, ["x"], [final_activation(model, "y").tensor])
    assert graph.seeds == {"z": "grad@z"}
    assert [v.name for v in graph.model.graph.output] == ["y", "z", "gradient@x"]


def test_every_operator_that_the_issue_lists_has_a_rule_or_a_body():
    """Batch, Group and the rest: by name, so that one that goes missing is noticed."""
    listed = """
    MatMul Gemm Conv ConvTranspose BatchNormalization LayerNormalization InstanceNormalization
    RMSNormalization Add Sub Mul Div Pow Neg Sqrt Exp Log Erf Abs Reciprocal Min Max Clip Where Relu LeakyRelu
    PRelu Elu Selu Sigmoid HardSigmoid HardSwish Tanh Gelu Softplus Softmax LogSoftmax Mish Swish MaxPool
    AveragePool GlobalAveragePool GlobalMaxPool ReduceMean ReduceSum ReduceMax ReduceL2 Reshape Flatten
    Transpose Squeeze Unsqueeze Expand Concat Split Slice Pad Gather GatherElements Tile Resize DepthToSpace
    Cast Identity Dropout Einsum ScatterND
    """
    assert not [name for name in listed.split() if ("", name) not in RULES]


def test_no_operator_is_taken_apart_that_has_a_rule():
    assert not set(EXPANSIONS) & set(RULES)


def test_a_softmax_of_before_opset_13_over_the_last_axis_is_one_node_again():
    case = Case([node("Softmax", ["x"], axis=2)], {"x": draw(0, 2, 3, 4)}, opset=12, single=True, step=1e-2)
    graph = check(case, rtol=1e-3, seed=0)
    kinds = [made.op_type for made in graph.model.graph.node if made.name not in graph.backward]
    assert kinds == ["Softmax"]
    assert final_activation(case.model, "y").tensor == "x"


@pytest.mark.parametrize("length", [40, 10])
def test_wide_pads_of_a_long_kernel_stand_apart(length):
    """Where they pay: with 20 taps and 40 positions, not with 10. In both halves; the result stays."""
    conv = node("Conv", ["x", "w"], ["h"], pads=[10, 9])
    case = Case([conv, node("Relu", ["h"], ["y"])], {"x": draw(0, 2, 3, length)}, {"w": draw(1, 4, 3, 20)}, single=True)
    model = case.model
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = length
    graph = build_gradient(model, ["x", "h"])
    kinds = [made.op_type for made in graph.model.graph.node]
    assert kinds.count("Pad") == (2 if length == 40 else 0)
    seed = draw(2, 2, 4, length).astype(np.float32)
    runner = GradientRunner(graph, runtime=Runtime(provider="cpu", threads=1))
    found = runner.run(case.inputs, lambda values: {"y": seed})
    want = function(case.model, ["y"], reference=False)(case.inputs)[0]
    np.testing.assert_allclose(found.values["y"], want, rtol=1e-4, atol=1e-4)
    d = draw(3, 2, 3, length).astype(np.float32)
    linear = Case([conv], {"x": d}, case.constants, single=True, outputs=("h",))
    moved = function(linear.model, ["h"], reference=False)(linear.inputs)[0]
    np.testing.assert_allclose((found.gradients["x"] * d).sum(), (found.gradients["h"] * moved).sum(), rtol=1e-3)


def test_padding_in_front_of_a_convolution_is_merged():
    """As exporters write it: the amounts are computed from constants."""
    nodes = [
        node("Concat", ["zero", "one"], ["pads"], axis=0),
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["y"], strides=[2]),
    ]
    constants = {"zero": ints(0, 0, 1), "one": ints(0, 0, 2), "w": draw(1, 3, 2, 3)}
    case = Case(nodes, {"x": draw(0, 2, 2, 7)}, constants, static=True, single=True, step=1.0)
    graph = check(case, rtol=1e-4, seed=0)
    assert [made.op_type for made in graph.model.graph.node] == ["Conv", "ConvTranspose"]
    kept = build_gradient(case.model, ["p"])
    assert set(kept.gradients) == {"p"}


def test_a_question_mark_is_no_symbol():
    """Paddle writes "?" for every free extent: two of them need not be equal."""
    case = Case([node("Mul", ["a", "b"], ["y"])], {"a": draw(0, 4, 3), "b": draw(1, 1, 3)})
    model = case.model
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "?"
    graph = build_gradient(model, ["b"])
    feed = {**case.inputs, graph.seeds["y"]: np.ones((4, 3))}
    found = Runner(graph.model, runtime=Runtime(provider="cpu")).run(feed)[graph.gradients["b"]]
    np.testing.assert_allclose(found, case.inputs["a"].sum(axis=0, keepdims=True), rtol=1e-12)


def test_extents_that_the_caller_knows_make_the_graph_simpler():
    case = Case([node("Mul", ["a", "b"], ["y"])], {"a": draw(0, 4, 3), "b": draw(1, 1, 3)})
    shapes = {"a": (4, 3), "b": (1, 3), "y": (4, 3)}
    graph = build_gradient(case.model, ["a", "b"], shapes=shapes)
    assert sorted(n.op_type for n in graph.model.graph.node if n.name in graph.backward) == ["Mul", "Mul", "ReduceSum"]


def test_an_operator_set_that_cannot_be_raised_is_said(monkeypatch):
    def refuse(model, version):
        raise RuntimeError("no adapter for Odd from 11 to 12")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    model = Case([node("Relu", ["x"])], {"x": draw(0, 3)}, opset=11).model
    graph = build_gradient(model, ["x"])
    assert graph.unreached == {"x": "opset 11 cannot be raised to 17: no adapter for Odd from 11 to 12"}
    assert final_activation(model, "y").kind == "none"
    assert unknown_ranks(model) == []


def test_a_share_is_what_one_reader_gives_back_whoever_else_reads():
    """Of x, an input, read by two products and a sum; of h, read once, the share is the whole gradient."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["x", "v"], ["k"]),
        node("MatMul", ["h", "u"], ["l"]),
        node("Sum", ["l", "k", "x"], ["y"]),
    ]
    weights = {name: draw(i, 4, 4) for i, name in enumerate("wvu")}
    case = Case(nodes, {"x": draw(5, 3, 4)}, weights)
    shares = {"h": "x", "k": "x", "l": "h"}
    graph = build_gradient(case.model, ["h", "x"], shares=shares)
    assert not graph.unreached
    assert graph.gradients[share_name("h", "l")] == graph.gradients["h"]
    seed = draw(6, 3, 4)
    found = GradientRunner(graph, runtime=Runtime(threads=1)).run(case.inputs, lambda values: {"y": seed}).gradients
    expected = {
        "h": seed @ weights["u"].T,
        "x": seed @ (weights["w"] @ weights["u"] + weights["v"] + np.eye(4)).T,
        share_name("x", "h"): seed @ (weights["w"] @ weights["u"]).T,
        share_name("x", "k"): seed @ weights["v"].T,
        share_name("h", "l"): seed @ weights["u"].T,
    }
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_a_share_that_no_gradient_reaches_says_why():
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Det", ["h"], ["d"]),
        node("Relu", ["x"], ["r"]),
        node("MatMul", ["r", "w"], ["aside"]),
        node("Add", ["d", "d"], ["y"]),
    ]
    case = Case(nodes, {"x": draw(0, 4, 4)}, {"w": draw(1, 4, 4)}, outputs=("y", "aside"))
    graph = build_gradient(case.model, [], ["y"], shares={"h": "x", "aside": "r"})
    assert graph.gradients == {}
    assert graph.unreached == {
        share_name("x", "h"): "no rule for Det",
        share_name("r", "aside"): "no differentiable path",
    }
