"""Where convolutions in integers meet floats, whatever is chosen."""

from __future__ import annotations

import onnx
import pytest
from builders import build, node, value, weight

from onnx_lowrank.latency.integer_edges import IntegerEdges


def chain(*between: onnx.NodeProto, image: int = 8) -> onnx.ModelProto:
    """conv, Relu, what is between t and u, conv; input x, output y."""
    nodes = [
        node("Conv", ["x", "W"], ["c"]),
        node("Relu", ["c"], ["t"]),
        *between,
        node("Conv", ["u", "V"], ["y"]),
    ]
    given, made = value("x", [1, 4, image, image]), value("y", [1, 4, image, image])
    return build(nodes, [given], [made], {"W": weight((4, 4, 1, 1), 1), "V": weight((4, 4, 1, 1), 2)})


def edges(model: onnx.ModelProto) -> tuple[bool, bool, bool, bool]:
    """Return what the first convolution reads and gives, and the second."""
    found = IntegerEdges(model, {"c": "x", "y": "u"})
    return found.reads_floats("x"), found.gives_floats("c"), found.reads_floats("u"), found.gives_floats("y")


@pytest.mark.parametrize("op", ["MaxPool", "Clip", "Transpose", "Pad"])
def test_integers_go_through_what_is_done_to_them_as_they_are(op: str):
    attributes = {"kernel_shape": [2, 2]} if op == "MaxPool" else {}
    assert edges(chain(node(op, ["t"], ["u"], **attributes))) == (True, False, False, True)


@pytest.mark.parametrize("op", ["Sigmoid", "GlobalAveragePool", "BatchNormalization"])
def test_others_read_and_give_floats(op: str):
    """A normalisation behind a Relu is no part of the convolution."""
    assert edges(chain(node(op, ["t"], ["u"]))) == (True, True, True, True)


def test_a_normalisation_behind_a_convolution_is_part_of_it():
    model = chain(node("Identity", ["t"], ["u"]))
    nodes = [
        node("Conv", ["x", "W"], ["c"]),
        node("BatchNormalization", ["c"], ["n"]),
        node("Relu", ["n"], ["u"]),
        node("Conv", ["u", "V"], ["y"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert edges(model) == (True, False, False, True)


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_factors_and_terms_that_are_constant_are_part_of_a_convolution(op: str):
    """Those that are computed are not, nor are any behind a Relu."""
    model = chain(node("Identity", ["t"], ["u"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight((1, 4, 1, 1), 3), "k"))

    def written(*between: onnx.NodeProto) -> tuple[bool, bool, bool, bool]:
        nodes = [node("Conv", ["x", "W"], ["c"]), *between, node("Conv", ["u", "V"], ["y"])]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return edges(model)

    assert written(node(op, ["c", "k"], ["m"]), node("Relu", ["m"], ["u"])) == (True, False, False, True)
    assert written(node("Sigmoid", ["x"], ["s"]), node(op, ["c", "s"], ["u"])) == (True, True, True, True)
    assert written(node("Relu", ["c"], ["t"]), node(op, ["t", "k"], ["u"])) == (True, True, True, True)


def test_a_sum_of_integers_is_one_and_a_sum_with_floats_is_none():
    inside = [node("Conv", ["t", "U"], ["d"]), node("Add", ["d", "t"], ["u"])]
    model = chain(*inside)
    found = IntegerEdges(model, {"c": "x", "d": "t", "y": "u"})
    assert not found.reads_floats("u")
    assert not found.gives_floats("c")
    assert not found.gives_floats("d")
    mixed = chain(node("Sigmoid", ["t"], ["s"]), node("Add", ["s", "t"], ["u"]))
    assert edges(mixed) == (True, True, True, True)


def test_what_a_second_reader_takes_as_floats_is_given_as_floats():
    model = chain(node("MaxPool", ["t"], ["u"], kernel_shape=[2, 2]), node("Sigmoid", ["u"], ["s"]))
    assert edges(model) == (True, True, False, True)
    model = chain(node("MaxPool", ["t"], ["u"], kernel_shape=[2, 2]))
    model.graph.output.append(value("t", [1, 4, 8, 8]))
    assert edges(model) == (True, True, False, True)
