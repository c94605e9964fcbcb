"""Which weights are sites, and the reason of every other one: its enum *and* a detail a user can read."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from builders import (
    ANY,
    behind_cast,
    build,
    constant,
    convnet,
    found_in,
    linear,
    mlp,
    node,
    normal,
    run,
    value,
    weight,
)
from builders import (
    quantised as eight_bit,
)
from onnx import TensorProto, helper

from onnx_lowrank.graph.names import all_names
from onnx_lowrank.graph.traversal import subgraphs
from onnx_lowrank.options import Runtime
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.types import Array, Skip, Why
from onnx_lowrank.weights.find import find_sites, largest_first
from onnx_lowrank.weights.transforms import tensor_of

W8 = weight((8, 8), 1)
F32, F16, F64, I8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8


def small(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], **given: object) -> onnx.ModelProto:
    """x (n, 8) -> y, of unknown shape."""
    kind = given.pop("kind", F32)
    outputs = [value("y", given.pop("out", [ANY, ANY]), kind), *given.pop("more", [])]
    return build(nodes, [value("x", given.pop("shape", ["n", 8]), kind)], outputs, weights, **given)


def matmul(name: str = "W", left: str = "x", out: str = "y") -> onnx.NodeProto:
    return node("MatMul", [left, name], [out], f"use_{name}_{out}")


def conditional(inner: list[onnx.NodeProto], tensors: dict[str, np.ndarray]) -> onnx.NodeProto:
    """An If whose both branches are `inner`, giving y."""

    def branch(name: str) -> onnx.GraphProto:
        nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in inner]
        for each in nodes:
            each.name = f"{name}_{each.name}"
            for field in (each.input, each.output):
                field[:] = [f"{name}_{n}" if n in {o for i in inner for o in i.output} else n for n in field]
        stored = [onnx.numpy_helper.from_array(array, f"{name}_{key}") for key, array in tensors.items()]
        for each in nodes:
            each.input[:] = [f"{name}_{n}" if n in tensors else n for n in each.input]
        return helper.make_graph(nodes, name, [], [value(f"{name}_inner", [ANY, ANY])], stored)

    return node("If", ["cond"], ["y"], "choice", then_branch=branch("then"), else_branch=branch("else"))


def in_an_if() -> onnx.ModelProto:
    return small([conditional([matmul("W", out="inner")], {"W": W8})], {"cond": np.array(True)})


def used_by_an_if() -> onnx.ModelProto:
    inner = [node("Add", ["x", "W"], ["inner"], "add")]
    return small(
        [matmul(out="z"), conditional(inner, {})], {"W": W8, "cond": np.array(True)}, more=[value("z", [ANY, 8])]
    )


def used_by_an_if_through_identity() -> onnx.ModelProto:
    inner = [matmul("same", out="inner")]
    nodes = [node("Identity", ["W"], ["same"]), matmul("W", out="z"), conditional(inner, {})]
    return small(nodes, {"W": W8, "cond": np.array(True)}, more=[value("z", [ANY, 8])])


def in_a_function() -> onnx.ModelProto:
    body = [constant("W", W8), matmul()]
    function = helper.make_function("local", "Dense", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    return small([node("Dense", ["x"], ["y"], "call", domain="local")], {}, domains={"local": 1}, functions=[function])


def given_to_a_function() -> onnx.ModelProto:
    function = helper.make_function("local", "Dense", ["x", "W"], ["y"], [matmul()], [helper.make_opsetid("", 17)])
    call = node("Dense", ["x", "W"], ["y"], "call", domain="local")
    return small([call], {"W": W8}, domains={"local": 1}, functions=[function])


def conv(shape: tuple[int, ...], group: int, x: list[int]) -> onnx.ModelProto:
    W = weight(shape, 2)
    return small([node("Conv", ["x", "W"], ["y"], "conv", group=group)], {"W": W}, shape=x, out=[ANY] * len(x))


def quantised() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {"W": rng.integers(-99, 99, (8, 8), np.int8)}
    nodes = [node("MatMulInteger", ["x", "W"], ["y"], "integers")]
    return build(nodes, [value("x", ["n", 8], TensorProto.UINT8)], [value("y", [ANY, ANY], TensorProto.INT32)], weights)


def lstm() -> onnx.ModelProto:
    nodes = [node("LSTM", ["x", "V", "W"], ["y"], "lstm", hidden_size=4)]
    weights = {"V": normal([1, 16, 8], 1), "W": normal([1, 16, 4], 2)}
    return small(nodes, weights, shape=["t", 1, 8], out=[ANY] * 4)


def gather() -> onnx.ModelProto:
    nodes = [node("GatherElements", ["W", "i"], ["y"], "embed")]
    return build(nodes, [value("i", ["n", 8], TensorProto.INT64)], [value("y", [ANY, ANY])], {"W": W8})


def gather_and_matmul() -> onnx.ModelProto:
    nodes = [node("Gather", ["W", "i"], ["e"], "embed"), matmul(left="e")]
    return build(nodes, [value("i", ["n"], TensorProto.INT64)], [value("y", [ANY, ANY])], {"W": W8})


def microsoft() -> onnx.ModelProto:
    nodes = [node("FusedMatMul", ["x", "W"], ["y"], "fused", domain="com.microsoft")]
    return small(nodes, {"W": W8}, domains={"com.microsoft": 1})


def overridable() -> onnx.ModelProto:
    model = linear(W8)
    model.graph.input.append(value("W", [8, 8]))
    return model


def returned() -> onnx.ModelProto:
    return small([matmul()], {"W": W8}, more=[value("W", [8, 8])])


def returned_by_identity() -> onnx.ModelProto:
    return small([matmul(), node("Identity", ["W"], ["copy"])], {"W": W8}, more=[value("copy", [8, 8])])


def passed_through(op: str) -> onnx.ModelProto:
    attributes = {"Cast": {"to": F32}, "Transpose": {"perm": [1, 0]}}.get(op, {})
    more = {"s": np.array([8, 8])} if op == "Reshape" else {}
    return small([node(op, ["W", *more], ["V"], "turn", **attributes), matmul("V")], {"W": W8, **more})


def integer() -> onnx.ModelProto:
    nodes = [node("Cast", ["W"], ["V"], "turn", to=TensorProto.INT32), matmul("V")]
    return small(nodes, {"W": W8}, kind=TensorProto.INT32)


def two_forms() -> onnx.ModelProto:
    nodes = [node("Transpose", ["W"], ["V"], "turn", perm=[1, 0]), matmul("V", out="h"), matmul("W", left="h")]
    return small(nodes, {"W": W8})


def both_sides() -> onnx.ModelProto:
    nodes = [matmul(out="h"), node("MatMul", ["W", "h"], ["y"], "left")]
    return small(nodes, {"W": W8}, shape=[8, 8])


def two_flags() -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "W"], ["h"], "one", transB=1), node("Gemm", ["h", "W"], ["y"], "two", transB=0)]
    return small(nodes, {"W": W8})


def holding(W: Array, *odd: float) -> Array:
    """Return a copy whose first numbers are others."""
    copy = W.copy()
    copy.reshape(-1)[: len(odd)] = odd
    return copy


def half_and_back() -> list[onnx.NodeProto]:
    return [
        node("Cast", ["W"], ["W.half"], "down", to=F16),
        node("Cast", ["W.half"], ["V"], "up", to=TensorProto.FLOAT),
    ]


def as_integers(*after: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A float weight that goes through int8 on its way: W.dq."""
    return [
        node("QuantizeLinear", ["W", "s", "z"], ["W.q"], "down"),
        node("DequantizeLinear", ["W.q", "s", "z"], ["W.dq"], "up"),
        *after,
    ]


def with_scale(model: onnx.ModelProto, channel: int, scale: float) -> onnx.ModelProto:
    """Give a channel of a quantised W another scale."""
    (tensor,) = (each for each in model.graph.initializer if each.name == "W.scale")
    scales = onnx.numpy_helper.to_array(tensor).copy()
    scales[channel] = scale
    tensor.CopyFrom(onnx.numpy_helper.from_array(scales, tensor.name))
    return model


REFUSED = {
    "depthwise ConvTranspose": (
        lambda: small([node("ConvTranspose", ["x", "W"], ["y"], "t", group=8)], {"W": normal([8, 1, 3, 3], 1)},
                      shape=[1, 8, 5, 5], out=[ANY] * 4),
        Why.DEPTHWISE,
        "8 groups of one channel",
    ),
    "depthwise": (lambda: conv((8, 1, 3, 3), 8, [1, 8, 5, 5]), Why.DEPTHWISE, "8 groups of one channel"),
    "integers": (quantised, Why.QUANTISED,
                 "MatMulInteger: only int8 and uint8 behind a plain DequantizeLinear are factored"),
    "LSTM": (lstm, Why.RECURRENT, "LSTM multiplies by it at every step, inside the node"),
    "inside If": (in_an_if, Why.SUBGRAPH, "lives in If choice"),
    "used by If": (used_by_an_if, Why.SUBGRAPH, "read inside If choice, and outside of it"),
    "used by If through Identity": (
        used_by_an_if_through_identity,
        Why.SUBGRAPH,
        "read inside If choice, and outside of it",
    ),
    "inside a function": (in_a_function, Why.SUBGRAPH, "lives in function Dense"),
    "given to a function": (given_to_a_function, Why.OPERATOR, "local.Dense"),
    "GatherElements": (gather, Why.EMBEDDING,
                       "GatherElements takes single elements: only rows (Gather) are looked up in factors"),
    "Gather and MatMul": (gather_and_matmul, Why.SHARED, "an embedding table that another layer multiplies by"),
    "other domain": (microsoft, Why.OPERATOR, "com.microsoft.FusedMatMul"),
    "made an integer": (integer, Why.DTYPE, "cast to int32"),
    "two forms": (two_forms, Why.SHARED, "its nodes read it in different forms"),
    "4-D MatMul": (
        lambda: small([matmul()], {"W": normal([1, 2, 8, 8], 1)}, shape=[2, 3, 8], out=[ANY] * 4),
        Why.SHAPE,
        "4-D operand of MatMul: a matrix or one for every slice is factored",
    ),
    "elementwise": (lambda: small([node("Mul", ["x", "W"], ["y"], "mul")], {"W": W8}), Why.ELEMENTWISE, "Mul"),
    "bias of Gemm": (
        lambda: small([node("Gemm", ["x", "x", "W"], ["y"], "g", transB=1)], {"W": W8}, shape=[8, 8]),
        Why.ELEMENTWISE,
        "bias of Gemm",
    ),
    "another operator": (lambda: small([node("CumSum", ["W", "i"], ["c"], "sum"), matmul("c")],
                                       {"W": W8, "i": np.array(0)}),
                         Why.OPERATOR, "CumSum"),
    "a batch of matrices": (lambda: small([node("Einsum", ["x", "W"], ["y"], "e", equation="ij,ij->ij")], {"W": W8}),
                            Why.OPERATOR, "Einsum: it has a matrix of its own for every index that both share"),
    "overridable": (overridable, Why.OVERRIDABLE, "also listed as a graph input; remove it there to have it factored"),
    "output": (returned, Why.OUTPUT, "the graph returns it"),
    "output by Identity": (
        returned_by_identity,
        Why.SHARED,
        "also used as elementwise, bias or normalisation (Identity)",
    ),
    "both sides": (both_sides, Why.SHARED, "its nodes read it in different layouts"),
    "two flags": (two_flags, Why.SHARED, "its nodes read it in different layouts"),
    "times itself": (
        lambda: small([node("MatMul", ["W", "W"], ["h"], "square"), matmul("h")], {"W": W8}),
        Why.SHAPE,
        "both operands are the same tensor",
    ),
    "nowhere": (
        lambda: small([matmul(out="h"), node("Relu", ["h"], ["r"]), node("Relu", ["x"], ["y"])], {"W": W8}),
        Why.NOWHERE,
        "no output depends on it",
    ),
    "no numbers": (
        lambda: small([matmul()], {"W": holding(W8, np.nan, np.nan, -np.inf)}),
        Why.NOT_FINITE,
        "2 NaN and 1 Inf among 64 numbers",
    ),
    "no numbers in half": (
        lambda: behind_cast(small([matmul()], {"W": holding(W8, np.inf)}), ["W"], F16),
        Why.NOT_FINITE,
        "1 Inf among 64 numbers",
    ),
    "infinite as it arrives": (
        lambda: small([*half_and_back(), matmul("V")], {"W": holding(W8, 1e6)}),
        Why.NOT_FINITE,
        "1 Inf among 64 numbers",
    ),
    "a scale that is NaN": (
        lambda: with_scale(eight_bit(small([matmul()], {"W": W8}), {"W": 1}), 3, np.nan),
        Why.NOT_FINITE,
        "8 NaN among 64 numbers",
    ),
    "NaN made integers": (
        lambda: small(as_integers(matmul("W.dq")), {"W": holding(W8, np.nan), "s": np.float32(0.1), "z": np.int8(0)}),
        Why.NOT_FINITE,
        "1 NaN among 64 numbers",
    ),
    "too small": (
        lambda: small([matmul()], {"W": weight((8, 1), 0)}, shape=["n", 8]),
        Why.TOO_SMALL,
        "its rank is 1, ranks below it are multiples of 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_weight_that_is_left_alone_has_its_reason(name: str):
    make, why, detail = REFUSED[name]
    found = found_in(make())
    refused = [skip for skip in found.skips if skip.weight.removeprefix("then_").removeprefix("else_") == "W"
               or skip.weight == "(constant)" or skip.weight == "W_value"]  # fmt: skip
    assert "W" not in {site.weight for site in found.sites}
    assert refused, found.skips
    for skip in refused:
        assert (skip.why, skip.detail) == (why, detail)
        assert skip.node
        assert skip.parameters == int(np.prod(skip.shape))


RIGID = {"depthwise", "depthwise ConvTranspose", "too small"}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_another_number_format_is_offered_to_what_is_too_small_or_depthwise(name: str):
    model = REFUSED[name][0]()
    found, before = find_sites(model, multiple=1, rigid=True), found_in(model)
    assert {site.weight for site in found.sites if site.rigid} == ({"W"} if name in RIGID else set())
    assert found.factorable.sites == before.sites
    assert found.parameters == before.parameters
    assert len(found.sites) + len(found.skips) == len(before.sites) + len(before.skips)


def test_tables_of_positions_and_short_ones_may_be_rounded_and_not_factored():
    ids = onnx.helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])
    nodes = [
        node("Gather", ["short", "x"], ["a"], "a"),
        node("Gather", ["places", "order"], ["b"], "b"),
        node("Gather", ["wide", "x"], ["c"], "c", axis=1),
        node("Add", ["a", "b"], ["y"]),
        node("Shape", ["x"], ["n"]),
        node("Range", ["zero", "count", "one"], ["order"]),
        node("Squeeze", ["n"], ["count"]),
    ]
    nodes = [nodes[4], nodes[6], nodes[5], *nodes[:4]]
    whole = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    tables = {"short": weight((6, 8), 1), "places": weight((20, 8), 2), "wide": weight((8, 30), 3)}
    model = build(nodes, [ids], [value("y", ["n", 8]), value("c", [8, "n"])], {**tables, **whole})
    assert {skip.weight for skip in found_in(model).skips} >= set(tables)
    found = find_sites(model, rigid=True)
    assert {site.weight: site.rigid for site in found.sites} == {"short": True, "places": True}
    assert not found.shared_inputs


@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"bias of Gemm"}))
def test_the_models_of_the_table_are_models(name: str):
    onnx.checker.check_model(REFUSED[name][0](), full_check=True)


def test_every_reason_but_three_can_be_seen_here():
    """EXCLUDED has its own test below; UNREACHED and OVERFLOW are found by calibration."""
    assert {why for _, why, _ in REFUSED.values()} == set(Why) - {Why.EXCLUDED, Why.UNREACHED, Why.OVERFLOW}


@pytest.mark.parametrize("kind", [F16, TensorProto.BFLOAT16])
def test_half_precision_is_a_site_of_two_bytes(kind: int):
    model = small([matmul()], {"W": W8}, kind=kind)
    model.graph.initializer[0].CopyFrom(tensor_of(W8, kind, "W"))
    found = found_in(model)
    (site,) = found.sites
    assert (site.itemsize, site.shape) == (2, (8, 8))
    np.testing.assert_allclose(found.weight(site), W8.T, rtol=2**-8, atol=0)


def test_a_weight_times_a_weight_is_left_alone():
    """Both operands constant: neither has activations, and both would want the node."""
    model = small([node("MatMul", ["V", "W"], ["h"], "fold"), matmul("h")], {"V": W8, "W": W8 + 1})
    found = found_in(model)
    assert found.sites == ()
    assert {(s.weight, s.why, s.detail) for s in found.skips} == {
        (name, Why.SHAPE, "both operands are constant") for name in "VW"
    }


def test_include_and_exclude_are_globs_on_weights_and_nodes():
    model = mlp([8, 8, 8, 8], [None, None, None], 0)

    def weights(**given: object) -> list[str]:
        return [site.weight for site in find_sites(model, multiple=1, **given).sites]

    assert weights() == ["fc0", "fc1", "fc2"]
    assert weights(include=["fc[01]"]) == ["fc0", "fc1"]
    assert weights(include=["gemm2"]) == ["fc2"]
    assert weights(exclude=["gemm*"]) == []
    assert weights(include=["fc*"], exclude=["*1"]) == ["fc0", "fc2"]
    skips = find_sites(model, multiple=1, include=["fc0", "fc1"], exclude=["*1"]).skips
    told = {s.weight: s.detail for s in skips if s.why is Why.EXCLUDED}
    assert told == {"fc1": "--exclude *1", "fc2": "no --include names it"}


def test_weights_behind_constants_and_identity_chains_are_sites():
    nodes = [
        constant("W", W8),
        node("Identity", ["W"], ["W1"]),
        node("Identity", ["W1"], ["W2"]),
        matmul("W2", out="h"),
        matmul("W1", left="h", out="y"),
    ]
    found = found_in(small(nodes, {}))
    (site,) = found.sites
    assert (site.id, site.weight, site.sharers, site.shape) == ("h", "W", ("h", "y"), (8, 8))
    assert (site.node, site.op, site.break_even) == ("use_W2_h", "MatMul", 4.0)


def test_weights_are_canonical():
    for transposed in (0, 1):
        W = weight((3, 5), 1)
        gemm = node("Gemm", ["x", "W"], ["y"], "g", transB=transposed)
        found = found_in(build([gemm], [value("x", ["n", 5])], [value("y", ["n", 3])], {"W": W if transposed else W.T}))
        np.testing.assert_array_equal(found.weight(found.sites[0]), W)
        assert found.sites[0].shape == (3, 5)


def test_parameters_are_all_weights():
    model = convnet([3, 8, 8], [None, None], 5, 0)
    assert found_in(model).parameters == 8 * 3 * 9 + 8 + 8 * 8 * 9 + 8 + 5 * 8
    assert sum(site.parameters for site in found_in(model).sites) == 8 * 3 * 9 + 8 * 8 * 9 + 5 * 8
    in_subgraphs = found_in(in_an_if())
    assert in_subgraphs.parameters == 2 * 64, "index tensors and booleans aside"


def test_index_tensors_and_unused_initializers_are_no_weights():
    model = passed_through("Reshape")
    model.graph.initializer.append(onnx.numpy_helper.from_array(W8, "nobody"))
    found = found_in(model)
    assert ([site.weight for site in found.sites], found.skips) == (["W"], ())


def test_a_foreign_domain_elsewhere_does_no_harm():
    nodes = [matmul(out="h"), node("Gelu", ["h"], ["g"], "gelu", domain="com.microsoft"), matmul("V", left="g")]
    model = small(nodes, {"W": W8, "V": W8 + 1}, domains={"com.microsoft": 1})
    assert [site.weight for site in found_in(model).sites] == ["W", "V"]
    assert run(model, {"x": normal([2, 8], 0)})["y"].shape == (2, 8)


def test_a_double_weight_is_a_site_of_eight_bytes():
    (site,) = found_in(small([matmul()], {"W": W8.astype(np.float64)}, kind=F64)).sites
    assert site.itemsize == 8


def test_listed_initializers_of_ir_3_are_not_overridable():
    (site,) = found_in(small([matmul()], {"W": W8}, ir=3)).sites
    assert site.weight == "W"


def test_largest_first():
    skips = [Skip(name, "", "", shape, Why.SHAPE) for name, shape in (("b", (2,)), ("c", (9,)), ("a", (2,)))]
    assert [skip.weight for skip in largest_first(skips)] == ["c", "a", "b"]


def test_all_names_reach_into_subgraphs():
    names = all_names(used_by_an_if())
    assert {"x", "y", "z", "W", "cond", "choice", "then_inner", "else_inner", "then_add"} <= names
    assert {graph.name for _, graph in subgraphs(used_by_an_if().graph)} == {"then", "else"}
    assert "then_W" in all_names(in_an_if())


def test_reading_does_not_change_the_model():
    for make, _, _ in REFUSED.values():
        model = make()
        before = model.SerializeToString(deterministic=True)
        found_in(model)
        assert model.SerializeToString(deterministic=True) == before


def test_what_graphsurgeon_cannot_read_is_no_reason_to_refuse_a_model():
    """Text that is no UTF-8 ends its import; onnx.checker and onnxruntime take the model, and so does this package."""
    model = linear(W8)
    bytes_as_text = model.graph.node.add(op_type="Constant", output=["text"])
    bytes_as_text.attribute.add(name="value_string", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")
    onnx.checker.check_model(model, full_check=True)
    Runner(model, runtime=Runtime(provider="cpu"))
    with pytest.raises(UnicodeDecodeError):
        gs.import_onnx(model)
    assert found_in(model).sites == found_in(linear(W8)).sites != ()
