"""Operators that move, take, repeat and interpolate elements."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_finite import Case, check, draw, ints, law, node
from hypothesis import assume, given
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**16)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@pytest.mark.parametrize("opset", [9, 13, 17, 21])
@pytest.mark.parametrize("shape", [(6, 4), (-1,), (0, -1), (2, 3, 4), (4, 1, 6)])
@pytest.mark.parametrize("static", [False, True])
def test_reshape(opset, shape, static):
    case = Case([node("Reshape", ["x", "s"])], {"x": draw(0, 2, 3, 4)}, {"s": ints(*shape)}, opset, static)
    check(case, rtol=1e-6, seed=0)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis):
    check(Case([node("Flatten", ["x"], axis=axis)], {"x": draw(0, 2, 3, 4)}), rtol=1e-6, seed=0)


@pytest.mark.parametrize("opset", [11, 13, 21])
@pytest.mark.parametrize("op", ["Squeeze", "Unsqueeze"])
@pytest.mark.parametrize("axes", [None, [1], [-1, 1]])
def test_squeeze(opset, op, axes):
    if axes is None and op == "Unsqueeze":
        pytest.skip("Unsqueeze needs axes")
    constants = {"axes": ints(*axes)} if axes is not None and opset >= 13 else {}
    attributes = {"axes": axes} if axes is not None and opset < 13 else {}
    case = Case([node(op, ["x", *constants], **attributes)], {"x": draw(0, 2, 1, 3, 1)}, constants, opset)
    check(case, rtol=1e-6, seed=0)


@given(shape=SHAPES, seed=SEEDS, data=st.data(), static=st.booleans())
@law
def test_transpose(shape, seed, data, static):
    perm = data.draw(st.none() | st.permutations(range(len(shape))))
    attributes = {} if perm is None else {"perm": list(perm)}
    check(
        Case([node("Transpose", ["x"], **attributes)], {"x": draw(seed, *shape)}, static=static), rtol=1e-6, seed=seed
    )


@given(shape=SHAPES, seed=SEEDS, data=st.data(), static=st.booleans(), count=st.integers(1, 3))
@law
def test_concat(shape, seed, data, static, count):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    inputs = {}
    for i in range(count):
        part = list(shape)
        part[axis] = data.draw(st.integers(1, 3))
        inputs[f"x{i}"] = draw(seed + i, *part)
    check(Case([node("Concat", list(inputs), axis=axis)], inputs, static=static), rtol=1e-6, seed=seed)


@given(
    seed=SEEDS,
    axis=st.integers(-2, 1),
    opset=st.sampled_from([11, 13, 18]),
    uneven=st.booleans(),
    used=st.integers(1, 3),
)
@law
def test_split(seed, axis, opset, uneven, used):
    """Nothing depends on the last outputs: zeros there."""
    sizes = [1, 3, 2] if uneven else [2, 2, 2]
    constants, attributes = {}, {"axis": axis}
    if opset < 13:
        attributes["split"] = sizes
    elif uneven or opset < 18:
        constants = {"sizes": ints(*sizes)}
    else:
        attributes["num_outputs"] = 3
    names = ["a", "b", "c"]
    split = node("Split", ["x", *constants], names, **attributes)
    check(Case([split], {"x": draw(seed, 6, 6)}, constants, opset, outputs=names[:used]), rtol=1e-6, seed=seed)


@given(
    shape=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    seed=SEEDS,
    static=st.booleans(),
    fixed=st.booleans(),
    data=st.data(),
)
@law
def test_slice(shape, seed, static, fixed, data):
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    starts, ends, steps = [], [], []
    for axis in axes:
        n = shape[axis]
        step = data.draw(st.sampled_from([1, 1, 1, 2, -1, -2]))
        start = data.draw(st.integers(-n, n - 1))
        end = data.draw(st.sampled_from([n, -1, 2**31, -(2**31), n - 1]))
        assume(len(range(*slice(start, end, step).indices(n))) > 0)
        starts.append(start), ends.append(end), steps.append(step)
    written = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    bounds = {"starts": ints(*starts), "ends": ints(*ends)}
    constants = {"axes": ints(*written), "steps": ints(*steps)}
    inputs = {"x": draw(seed, *shape)}
    cut = node("Slice", ["x", "starts", "ends", "axes", "steps"])
    # Bounds fed at run time have a known length: a model says so.
    case = Case(
        [cut],
        inputs if fixed else {**inputs, **bounds},
        {**constants, **(bounds if fixed else {})},
        static=static or not fixed,
    )
    check(case, rtol=1e-6, seed=seed)


def test_slice_of_old_has_attributes():
    case = Case([node("Slice", ["x"], starts=[1], ends=[-1], axes=[1])], {"x": draw(0, 2, 4)}, opset=9)
    check(case, rtol=1e-6, seed=0)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@given(shape=st.lists(st.integers(3, 5), min_size=1, max_size=3), seed=SEEDS, fixed=st.booleans(), data=st.data())
@law
def test_pad(mode, shape, seed, fixed, data):
    opset = 19 if mode == "wrap" else data.draw(st.sampled_from([11, 13, 17, 18, 21]))
    axes = list(range(len(shape)))
    constants = {}
    if opset >= 18 and data.draw(st.booleans()):
        axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
        constants["axes"] = ints(*axes)
    low = -1 if mode == "constant" else 0
    pads = {"pads": ints(*(data.draw(st.integers(low, 2)) for _ in range(2 * len(axes))))}
    inputs = {"x": draw(seed, *shape)} if fixed else {"x": draw(seed, *shape), **pads}
    names = ["x", "pads", *(["", "axes"] if "axes" in constants else [])]
    case = Case([node("Pad", names, mode=mode)], inputs, {**constants, **(pads if fixed else {})}, opset)
    check(case, rtol=1e-6, seed=seed)


@given(
    shape=SHAPES,
    picked=st.lists(st.integers(1, 3), max_size=2),
    seed=SEEDS,
    static=st.booleans(),
    fixed=st.booleans(),
    data=st.data(),
)
@law
def test_gather(shape, picked, seed, static, fixed, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    n = shape[axis]
    index = {"i": np.random.default_rng(seed).integers(-n, n, size=picked)}
    inputs = {"x": draw(seed, *shape)} if fixed else {"x": draw(seed, *shape), **index}
    case = Case([node("Gather", ["x", "i"], axis=axis)], inputs, index if fixed else {}, static=static)
    check(case, rtol=1e-6, seed=seed)


@pytest.mark.parametrize("opset", [11, 13, 17])
@given(shape=SHAPES, seed=SEEDS, data=st.data())
@law
def test_gather_elements(opset, shape, seed, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    taken = list(shape)
    taken[axis] = data.draw(st.integers(1, 4))
    index = np.random.default_rng(seed).integers(-shape[axis], shape[axis], size=taken)
    case = Case([node("GatherElements", ["x", "i"], axis=axis)], {"x": draw(seed, *shape), "i": index}, opset=opset)
    check(case, rtol=1e-6, seed=seed)


def test_gather_nd():
    index = np.array([[0, 1], [1, 2], [0, 1]], np.int64)
    check(Case([node("GatherND", ["x", "i"])], {"x": draw(0, 2, 3, 4)}, {"i": index}), rtol=1e-6, seed=0)


@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_nd(reduction):
    index = np.array([[0, 1], [1, 2]], np.int64)
    inputs = {"x": draw(0, 2, 3, 4), "u": draw(1, 2, 4)}
    case = Case([node("ScatterND", ["x", "i", "u"], reduction=reduction)], inputs, {"i": index})
    check(case, rtol=1e-6, seed=0)


@pytest.mark.parametrize("reduction", ["none", "add"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(reduction, axis):
    index = np.array([[0, 1], [1, 0]], np.int64)
    inputs = {"x": draw(0, 3, 4), "u": draw(1, 2, 2)}
    scatter = node("ScatterElements", ["x", "i", "u"], reduction=reduction, axis=axis)
    check(Case([scatter], inputs, {"i": index}), rtol=1e-6, seed=0)


@given(shape=SHAPES, seed=SEEDS, static=st.booleans(), fixed=st.booleans(), data=st.data())
@law
def test_tile(shape, seed, static, fixed, data):
    repeats = {"r": ints(*(data.draw(st.integers(1, 3)) for _ in shape))}
    inputs = {"x": draw(seed, *shape)} if fixed else {"x": draw(seed, *shape), **repeats}
    check(Case([node("Tile", ["x", "r"])], inputs, repeats if fixed else {}, static=static), rtol=1e-6, seed=seed)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("static", [False, True])
def test_depth_to_space(mode, static):
    case = Case([node("DepthToSpace", ["x"], blocksize=2, mode=mode)], {"x": draw(0, 2, 8, 2, 3)}, static=static)
    check(case, rtol=1e-6, seed=0)


def test_space_to_depth():
    check(Case([node("SpaceToDepth", ["x"], blocksize=2)], {"x": draw(0, 2, 3, 4, 6)}), rtol=1e-6, seed=0)


@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    how=st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    nearest=st.sampled_from(["floor", "round_prefer_floor", "ceil", "round_prefer_ceil"]),
    scales=st.tuples(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), st.sampled_from([0.6, 1.0, 2.0, 2.3])),
    by_size=st.booleans(),
    fixed=st.booleans(),
    static=st.booleans(),
    opset=st.sampled_from([11, 13, 18, 19]),
    seed=SEEDS,
)
@law
def test_resize(mode, how, nearest, scales, by_size, fixed, static, opset, seed):
    assume(fixed or not by_size or opset >= 13)  # onnxruntime refuses the forward model
    static = static or (by_size and not fixed)
    x = draw(seed, 2, 2, 4, 5)
    attributes = {"mode": mode, "coordinate_transformation_mode": how}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    if by_size:
        what = {"sizes": ints(2, 2, int(4 * scales[0]), int(5 * scales[1]))}
        names = ["x", "roi", "empty", "sizes"] if opset < 13 else ["x", "", "", "sizes"]
    else:
        what = {"scales": np.array([1, 1, *scales], np.float32)}
        names = ["x", "roi" if opset < 13 else "", "scales"]
    constants = {"roi": np.zeros(0, np.float32), "empty": np.zeros(0, np.float32)} if opset < 13 else {}
    inputs = {"x": x} if fixed else {"x": x, **what}
    constants = {**constants, **(what if fixed else {})}
    case = Case([node("Resize", names, **attributes)], inputs, constants, opset, static, single=True, step=1.0)
    check(case, rtol=1e-5, seed=seed, targets=["x"])


def test_resize_of_named_axes():
    resize = node("Resize", ["x", "", "scales"], axes=[3, 2], mode="linear")
    case = Case(
        [resize], {"x": draw(0, 1, 2, 3, 4)}, {"scales": np.array([2, 1.5], np.float32)}, 18, single=True, step=1.0
    )
    check(case, rtol=1e-5, seed=0)


def test_whole_nearest_upsampling_goes_back_by_a_mean():
    scales = {"scales": np.array([1, 1, 2, 3], np.float32)}
    resize = node("Resize", ["x", "", "scales"], coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    graph = check(Case([resize], {"x": draw(0, 2, 2, 3, 4)}, scales, single=True, step=1.0), rtol=1e-5, seed=0)
    assert "AveragePool" in {made.op_type for made in graph.model.graph.node if made.name in graph.backward}


def test_upsample_of_old():
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    case = Case(
        [node("Upsample", ["x", "scales"], mode="nearest")],
        {"x": draw(0, 1, 2, 3, 3)},
        scales,
        9,
        single=True,
        step=1.0,
    )
    check(case, rtol=1e-5, seed=0)
