"""Matrix products and convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_finite import Case, check, draw, law, node
from hypothesis import given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**16)


@given(
    left=st.integers(1, 4), right=st.integers(1, 4), seed=SEEDS, static=st.booleans(), data=st.data(), old=st.booleans()
)
@law
def test_matmul(left, right, seed, static, data, old):
    m, k, n = (data.draw(st.integers(1, 3)) for _ in range(3))
    batch = [data.draw(st.integers(1, 3)) for _ in range(2)]
    shapes = []
    for rank, core in ((left, (m, k)), (right, (k, n))):
        lead = batch[2 - (rank - 2) :] if rank > 2 else []
        lead = [size if data.draw(st.booleans()) else 1 for size in lead]
        vector = (k,)
        shapes.append((*lead, *core) if rank > 1 else vector)
    inputs = {"a": draw(seed, *shapes[0]), "b": draw(seed + 1, *shapes[1])}
    case = Case([node("MatMul", ["a", "b"])], inputs, static=static, opset=9 if old else 17)
    check(case, rtol=1e-6, seed=seed)


@pytest.mark.parametrize("ta", [0, 1])
@pytest.mark.parametrize("tb", [0, 1])
@given(
    seed=SEEDS,
    static=st.booleans(),
    bias=st.sampled_from([None, (), (1,), (4,), (3, 1), (1, 4), (3, 4)]),
    alpha=st.sampled_from([1.0, 0.5]),
    beta=st.sampled_from([1.0, -2.0]),
)
@law
def test_gemm(ta, tb, seed, static, bias, alpha, beta):
    inputs = {"a": draw(seed, *((2, 3) if ta else (3, 2))), "b": draw(seed + 1, *((4, 2) if tb else (2, 4)))}
    if bias is not None:
        inputs["c"] = draw(seed + 2, *bias)
    gemm = node("Gemm", list(inputs), transA=ta, transB=tb, alpha=alpha, beta=beta)
    check(Case([gemm], inputs, static=static), rtol=1e-6, seed=seed)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 2)]),
        ("bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("i,j->ij", [(2,), (3,)]),
        ("ij->ji", [(2, 3)]),
        ("ij->i", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("i,i->", [(3,), (3,)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("...ij,jk->...ik", [(2, 2, 3, 4), (4, 2)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (1, 2, 4, 2)]),
        ("ab,bc,cd->ad", [(2, 3), (3, 2), (2, 4)]),
        ("ab,c->c", [(2, 3), (4,)]),
        ("b i j, b j -> b i", [(2, 3, 4), (2, 4)]),
    ],
)
@pytest.mark.parametrize("static", [False, True])
def test_einsum(equation, shapes, static):
    inputs = {f"x{i}": draw(i, *shape) for i, shape in enumerate(shapes)}
    check(Case([node("Einsum", list(inputs), equation=equation)], inputs, static=static), rtol=1e-6, seed=1)


@st.composite
def convolutions(pick, transposed: bool = False):
    """Geometry of a convolution: shape of x, shape of the kernel, attributes."""
    n = pick(st.integers(1, 3))
    group = pick(st.sampled_from([1, 2, 3]))
    into, out = group * pick(st.integers(1, 2)), group * pick(st.integers(1, 2))
    kernel = [pick(st.integers(1, 3)) for _ in range(n)]
    strides = [pick(st.integers(1, 3)) for _ in range(n)]
    dilations = [pick(st.integers(1, 2)) for _ in range(n)]
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    sizes = [extent + pick(st.integers(0, 4)) for extent in extents]
    attributes = {"group": group, "strides": strides, "dilations": dilations, "kernel_shape": kernel}
    auto = pick(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        most = [min(extent - 1, 2) if transposed else 2 for extent in extents]
        pads = [pick(st.integers(0, most[i % n])) for i in range(2 * n)]
        attributes["pads"] = pads
    elif auto.startswith("SAME"):
        # onnxruntime refuses dilated windows with SAME; a transposed window must reach its stride.
        attributes["dilations"] = [1] * n
        if transposed:
            attributes["strides"] = [min(s, k) for s, k in zip(strides, kernel, strict=True)]
    attributes["auto_pad"] = auto
    weight = (into, out // group, *kernel) if transposed else (out, into // group, *kernel)
    return (2, into, *sizes), weight, attributes


@given(geometry=convolutions(), seed=SEEDS, static=st.booleans(), bias=st.booleans())
@law
def test_conv(geometry, seed, static, bias):
    shape, kernel, attributes = geometry
    inputs = {"x": draw(seed, *shape)}
    if bias:
        inputs["b"] = draw(seed + 2, kernel[0])
    conv = node("Conv", ["x", "w", *(["b"] if bias else [])], **attributes)
    check(
        Case([conv], inputs, {"w": draw(seed + 1, *kernel)}, static=static, single=True, step=1.0), rtol=5e-5, seed=seed
    )


@given(data=st.data(), seed=SEEDS, static=st.booleans(), n=st.integers(1, 3))
@law
def test_single_channels_with_strides(data, seed, static, n):
    """By a convolution of the spread gradient where the window allows it: odd sizes, whatever is left over."""

    def each(low: int, high: int) -> list[int]:
        return data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n))

    kernel, strides, dilations, channels = each(1, 4), each(1, 3), each(1, 2), data.draw(st.integers(1, 3))
    auto = data.draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER"]))
    attributes = {"group": channels, "strides": strides, "dilations": dilations if auto == "NOTSET" else [1] * n}
    attributes |= {"pads": each(0, 2) + each(0, 2)} if auto == "NOTSET" else {"auto_pad": auto}
    sizes = [d * (k - 1) + 1 + more for k, d, more in zip(kernel, dilations, each(0, 5), strict=True)]
    width = channels * data.draw(st.integers(1, 2))
    inputs, weights = {"x": draw(seed, 2, channels, *sizes)}, {"w": draw(seed + 1, width, 1, *kernel)}
    case = Case([node("Conv", ["x", "w"], **attributes)], inputs, weights, static=static, single=True, step=1.0)
    check(case, rtol=5e-5, seed=seed)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("channels", "expected"), [(1, "Conv"), (2, "ConvTranspose")])
def test_strides_go_back_by_a_convolution_where_channels_are_single(channels: int, expected: str, static: bool):
    conv = node("Conv", ["x", "w"], pads=[1, 1, 1, 1], strides=[2, 1], group=4)
    inputs, weights = {"x": draw(0, 1, 4 * channels, 6, 5)}, {"w": draw(1, 4, channels, 3, 3)}
    graph = check(Case([conv], inputs, weights, static=static, single=True, step=1.0), rtol=5e-5, seed=0)
    kinds = [made.op_type for made in graph.model.graph.node if made.name in graph.backward]
    assert [kind for kind in kinds if kind.startswith("Conv")] == [expected]


@given(geometry=convolutions(), seed=SEEDS)
@law
def test_conv_with_a_kernel_made_in_the_graph(geometry, seed):
    shape, kernel, attributes = geometry
    nodes = [node("Identity", ["w0"], ["w"]), node("Conv", ["x", "w"], **attributes)]
    case = Case(nodes, {"x": draw(seed, *shape)}, {"w0": draw(seed + 1, *kernel)}, single=True, step=1.0)
    check(case, rtol=5e-5, seed=seed)


@given(geometry=convolutions(transposed=True), seed=SEEDS, static=st.booleans(), data=st.data())
@law
def test_conv_transpose(geometry, seed, static, data):
    shape, kernel, attributes = geometry
    inputs = {"x": draw(seed, *shape)}
    if data.draw(st.booleans()):
        inputs["b"] = draw(seed + 2, kernel[1] * attributes["group"])
    if attributes["auto_pad"] in ("NOTSET", "VALID"):
        room = [stride - 1 for stride in attributes["strides"]]
        attributes["output_padding"] = [data.draw(st.integers(0, most)) for most in room]
    conv = node("ConvTranspose", ["x", "w", *(["b"] if "b" in inputs else [])], **attributes)
    case = Case([conv], inputs, {"w": draw(seed + 1, *kernel)}, static=static, single=True, step=1.0)
    check(case, rtol=5e-5, seed=seed)


def test_a_stride_1_convolution_goes_back_by_a_convolution():
    conv = node("Conv", ["x", "w"], pads=[1, 1, 1, 1])
    case = Case([conv], {"x": draw(0, 1, 2, 5, 5)}, {"w": draw(1, 3, 2, 3, 3)}, single=True, step=1.0)
    graph = check(case, rtol=5e-5, seed=0)
    kinds = [made.op_type for made in graph.model.graph.node if made.name in graph.backward]
    assert kinds.count("Conv") == 1
    assert "ConvTranspose" not in kinds


def test_pads_wider_than_the_kernel():
    conv = node("Conv", ["x", "w"], pads=[3, 2, 3, 4])
    case = Case([conv], {"x": draw(0, 1, 2, 5, 5)}, {"w": draw(1, 3, 2, 2, 2)}, single=True, step=1.0)
    check(case, rtol=5e-5, seed=0)


def test_a_matrix_shared_by_two_products():
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["k"]), node("MatMul", ["k", "w"], ["y"])]
    check(Case(nodes, {"x": draw(0, 3, 4), "w": draw(1, 4, 4)}), rtol=1e-6, seed=0)


def test_float_types_keep_theirs():
    x = np.ones((2, 3), np.float64)
    graph = check(Case([node("MatMul", ["x", "w"])], {"x": x}, {"w": draw(0, 3, 2)}), rtol=1e-6, seed=0)
    assert [v.type.tensor_type.elem_type for v in graph.model.graph.output if v.name in graph.gradients.values()] == [
        11
    ]
