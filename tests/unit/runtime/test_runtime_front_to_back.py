"""runtime.front_to_back: parts of a model over samples give what the whole model gives, and no node twice."""

from __future__ import annotations

import numpy as np
import onnx
from builders import build, feeds_of, node, normal, options, run, value, weight
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.runtime.front_to_back import FrontToBack
from onnx_lowrank.types import Array

RUNTIME = options().runtime


def residual() -> onnx.ModelProto:
    """Return x -> a, b = split(W x); c = relu(a) + b; d = V c; y = d + c, and a branch of constants alone."""
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node("Split", ["h"], ["a", "b"], axis=1, num_outputs=2),
        node("Relu", ["a"], ["r"]),
        node("Add", ["r", "b"], ["c"]),
        node("Transpose", ["V"], ["Vt"], perm=[1, 0]),
        node("MatMul", ["c", "Vt"], ["d"]),
        node("Add", ["d", "c"], ["e"]),
        node("MatMul", ["e", "U"], ["y"]),
    ]
    weights = {"W": weight((6, 8), 1), "V": weight((4, 4), 2), "U": weight((4, 3), 3)}
    return build(nodes, [value("x", ["n", 6])], [value("y", ["n", 3])], weights, opset=18)


MODEL = residual()
NAMES = ["h", "a", "r", "c", "d", "e", "y"]
FEEDS = feeds_of(normal([5, 6], 4))


@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=4), st.sets(st.sampled_from(NAMES)))
def test_parts_give_what_the_whole_gives(wanted: list[set[str]], opened: set[str]):
    walk = FrontToBack(FEEDS, RUNTIME)
    for place, names in enumerate(wanted):
        later = [name for others in wanted[place + 1 :] for name in others]
        part = walk.part(MODEL, sorted(names), later, opened)
        for index, feed in enumerate(FEEDS):
            got, whole = part.run(index), everything(feed["x"])
            assert got.keys() == names
            for name in names:
                np.testing.assert_allclose(got[name], whole[name], rtol=1e-5, atol=1e-5)


def everything(x: Array) -> dict[str, Array]:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(MODEL)
    exposed.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in NAMES[:-1])
    return run(exposed, {"x": x})


def test_a_later_part_starts_behind_what_is_kept():
    walk = FrontToBack(FEEDS, RUNTIME)
    first = walk.part(MODEL, ["c"], ["e"], {"d"})
    for index in range(len(FEEDS)):
        first.run(index)
        assert list(walk.kept[index]) == ["c"]  # nothing else is read later, and constants are no samples
        assert first.bytes(index) == 4 * 4
    second = walk.part(MODEL, ["e"], [], ())
    assert [spec.name for spec in second.runner.inputs if spec.name != "x"] == ["c"]
    np.testing.assert_allclose(second.run(0)["e"], everything(FEEDS[0]["x"])["e"], rtol=1e-5, atol=1e-6)
    assert walk.kept[0] == {}


def test_what_may_change_is_not_kept():
    walk = FrontToBack(FEEDS, RUNTIME)
    walk.part(MODEL, ["c"], ["y"], {"r"}).run(0)
    assert sorted(walk.kept[0]) == ["a", "b"]
    changed = onnx.ModelProto()
    changed.CopyFrom(MODEL)
    next(n for n in changed.graph.node if n.output[0] == "r").op_type = "Neg"
    got = walk.part(changed, ["y"], [], ()).run(0)["y"]
    np.testing.assert_allclose(got, run(changed, FEEDS[0])["y"], rtol=1e-5, atol=1e-6)


def test_a_sequence_is_made_again():
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node("SplitToSequence", ["h", "one"], ["s"], axis=1),
        node("SequenceAt", ["s", "at"], ["y"]),
    ]
    weights = {"W": weight((6, 4), 1), "one": np.int64(1), "at": np.int64(2)}
    model = build(nodes, [value("x", ["n", 6])], [value("y", ["n", "m"])], weights)
    walk = FrontToBack(FEEDS, RUNTIME)
    walk.part(model, ["h"], ["y"], {"y"}).run(0)
    assert "s" not in walk.kept[0]
    np.testing.assert_array_equal(walk.part(model, ["y"], [], ()).run(0)["y"], run(model, FEEDS[0])["y"])
