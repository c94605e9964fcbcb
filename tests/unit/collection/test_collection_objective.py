"""The objective: where the loss's gradient enters, what it is there, and what labels may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from builders import build, node, normal, run, value, weight
from scipy.special import expit, softmax

from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.errors import MetricError
from onnx_lowrank.metrics import listed

CLASSES = 5
DRAWS = 4000


def ending(*ends: tuple[str, dict], name: str = "y", shape: tuple[int, ...] = (CLASSES,)) -> onnx.ModelProto:
    """Return x W followed by these operators; the last gives output `name`."""
    names = ["h", *(f"e{i}" for i in range(len(ends) - 1)), name] if ends else [name]
    nodes = [node("MatMul", ["x", "W"], [names[0]], "fc")]
    nodes += [node(op, [names[i]], [names[i + 1]], f"end{i}", **flags) for i, (op, flags) in enumerate(ends)]
    return build(nodes, [value("x", ["n", *shape])], [value(name, ["n", *shape])], {"W": weight((shape[-1],) * 2, 1)})


def objective_of(model: onnx.ModelProto, kind: str, x: np.ndarray) -> Objective:
    return Objective.of(model, kind, listed([run(model, {"x": x})]), 0)  # type: ignore[arg-type]


X = normal([1, CLASSES], 3)
SOFTMAX, SIGMOID = ("Softmax", {"axis": -1}), ("Sigmoid", {})


@pytest.mark.parametrize(
    ("ends", "kind", "name", "seeded", "finals", "divergence"),
    [
        ([SOFTMAX], "kl", "y", "h", "softmax", "kl"),
        ([SOFTMAX, ("Identity", {})], "kl", "y", "h", "softmax", "kl"),
        ([("LogSoftmax", {"axis": -1})], "kl", "logits", "h", "log_softmax", "kl"),
        ([SIGMOID], "relative-l2", "y", "h", "sigmoid", "bernoulli"),
        ([SIGMOID], "kl", "y", "h", "sigmoid", "bernoulli"),
        ([], "kl", "logits", "logits", "none", "kl"),
        ([], "relative-l2", "embedding", "embedding", "none", "relative-l2"),
        ([("Tanh", {})], "relative-l2", "y", "y", "none", "relative-l2"),
        ([SOFTMAX], "relative-l2", "y", "y", "none", "relative-l2"),
        ([SOFTMAX, ("Abs", {})], "kl", "y", "y", "none", "kl"),
    ],
)
def test_the_gradient_enters_where_the_kind_of_output_says(ends, kind, name, seeded, finals, divergence):
    objective = objective_of(ending(*ends, name=name), kind, X)
    assert objective.seeded == [seeded]
    assert [(f.kind, f.tensor) for f in objective.finals.values()] == [(finals, seeded)]
    assert [each.kind for each in objective.probing.outputs] == [divergence]
    assert objective.has_slope == (divergence == "kl")


def curvature(objective: Objective, tensor: str, at: np.ndarray) -> np.ndarray:
    """Return the second moment of DRAWS sampled gradients at one sample."""
    draws = np.array([objective.sampled({tensor: at}, 1, [i])[tensor].ravel() for i in range(DRAWS)], np.float64)
    return draws.T @ draws / DRAWS


def close(got: np.ndarray, expected: np.ndarray) -> None:
    """Within six standard errors, roughly: 1 / √DRAWS of the largest entry each."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=6 / np.sqrt(DRAWS) * np.abs(expected).max())


def test_sampled_gradients_have_the_hessian_of_each_kind_for_second_moment():
    z = normal([1, CLASSES], 7)
    p, bits = softmax(z[0].astype(float)), expit(z[0].astype(float))
    fisher = np.diag(p) - np.outer(p, p)
    close(curvature(objective_of(ending(SOFTMAX), "kl", X), "h", z), fisher)
    close(curvature(objective_of(ending(name="logits"), "kl", X), "logits", z), fisher)
    close(curvature(objective_of(ending(SOFTMAX, ("Abs", {})), "kl", X), "y", p[None]), np.diag(1 / p))
    close(curvature(objective_of(ending(SIGMOID), "kl", X), "h", z), np.diag(bits * (1 - bits)) / CLASSES)
    model = ending(name="embedding")
    variance = run(model, {"x": X})["embedding"].astype(float).var()
    expected = 2 * np.eye(CLASSES) / CLASSES / variance
    close(curvature(objective_of(model, "relative-l2", X), "embedding", z), expected)


@pytest.mark.parametrize(("kind", "name"), [("kl", "logits"), ("relative-l2", "embedding")])
@pytest.mark.parametrize("tokens", [1, 3])
def test_an_output_whose_first_axis_is_not_the_samples_counts_as_all_of_them(kind: str, name: str, tokens: int):
    """(samples · tokens, classes): the same gradients as (samples, tokens, classes), where the mean over tokens counts.

    They stand for the sum of the samples' losses, as everything else does.
    """
    samples = 4
    x = normal([samples, tokens, CLASSES], 3)
    model = ending(name=name, shape=(tokens, CLASSES))
    objective = replace(objective_of(model, kind, x[:1]), signed=True)
    z = normal([samples, tokens, CLASSES], 5)
    apart, flat = ({name: z}, {name: z.reshape(-1, CLASSES)})
    one = objective.sampled(apart, samples, range(samples))[name]
    other = objective.sampled(flat, samples, range(samples))[name]
    assert other.shape == flat[name].shape
    np.testing.assert_allclose(other.ravel(), one.ravel(), rtol=1e-5, atol=1e-6)
    if kind == "kl":
        labelled = [objective.labelled(v, samples, range(samples))[name].ravel() for v in (apart, flat)]
        np.testing.assert_allclose(*labelled, rtol=1e-5, atol=1e-6)


def test_the_same_numbers_draw_the_same_and_others_do_not():
    objective = objective_of(ending(name="embedding"), "relative-l2", X)
    values = {"embedding": normal([2, CLASSES], 3)}
    first = objective.sampled(values, 2, [4, 9])["embedding"]
    assert (first == objective.sampled(values, 2, [4, 9])["embedding"]).all()
    other = objective.sampled(values, 2, [4, 8])["embedding"]
    assert (first[0] == other[0]).all()  # a sample draws the same in whatever batch it is
    assert (first[1] != other[1]).all()
    assert (first != replace(objective, seed=1).sampled(values, 2, [4, 9])["embedding"]).all()


@pytest.mark.parametrize(
    ("ends", "kind", "name", "tensor"),
    [
        ([SOFTMAX], "kl", "y", "h"),
        ([SIGMOID], "kl", "y", "h"),
        ([], "kl", "logits", "logits"),
        ([], "relative-l2", "embedding", "embedding"),
    ],
)
def test_targets_that_are_the_own_values_change_nothing_and_others_pull(ends, kind, name, tensor):
    objective = objective_of(ending(*ends, name=name), kind, X)
    own, away = normal([2, CLASSES], 3), normal([2, CLASSES], 4)
    plain = objective.sampled({tensor: own}, 2, [1, 0])[tensor]
    for values in (own, away):
        targets = [{tensor: values[1:]}, {tensor: values[:1]}]
        aimed = replace(objective, targets=targets).sampled({tensor: own}, 2, [1, 0])[tensor]
        if values is own:
            np.testing.assert_allclose(aimed, plain, rtol=0, atol=1e-6)
        else:
            assert np.abs(aimed - plain).max() > 0.1


@pytest.mark.parametrize("tokens", [1, 3])
def test_targets_pull_by_the_gradient_of_the_divergence(tokens: int):
    """What is drawn has mean zero at the target, so the mean over draws is √M times the mean loss's gradient."""
    objective = objective_of(ending(name="logits", shape=(tokens, CLASSES)), "kl", normal([1, tokens, CLASSES], 3))
    own, aim = normal([1, tokens, CLASSES], 4), normal([1, tokens, CLASSES], 5)
    aimed = replace(objective, targets=[{"logits": aim}] * DRAWS)
    mean = np.mean([aimed.sampled({"logits": own}, 1, [i])["logits"] for i in range(DRAWS)], axis=0)
    expected = (softmax(own.astype(float), axis=-1) - softmax(aim.astype(float), axis=-1)) / np.sqrt(tokens)
    np.testing.assert_allclose(mean, expected, rtol=0, atol=6 / np.sqrt(DRAWS))


def labelled(labels, values: np.ndarray, *, ends=(), name: str = "logits", tensor: str = "logits") -> np.ndarray:
    shape = values.shape[1:]
    base = objective_of(ending(*ends, name=name, shape=shape), "kl", normal([1, *shape], 3))
    objective = replace(base, labels=labels, signed=True)
    return objective.labelled({tensor: values}, len(values), range(len(values)))[tensor]


def test_class_labels_give_the_gradient_of_cross_entropy():
    z = normal([2, CLASSES], 3)
    expected = softmax(z.astype(float), axis=-1) - np.eye(CLASSES)[[4, 0]]
    for labels in ([4, 0], np.array([4, 0]), [np.array([4]), np.array([0])], [np.int8(4), np.uint8(0)]):
        np.testing.assert_allclose(labelled(labels, z), expected, rtol=0, atol=1e-6)
    before = labelled([4, 0], z, ends=[SOFTMAX], name="y", tensor="h")
    np.testing.assert_allclose(before, expected, rtol=0, atol=1e-6)
    p = softmax(z, axis=-1)
    after = labelled([4, 0], p, ends=[SOFTMAX, ("Abs", {})], name="y", tensor="y")
    np.testing.assert_allclose(after, -np.eye(CLASSES)[[4, 0]] / p, rtol=1e-5, atol=1e-6)


def test_without_labels_the_original_decides():
    z = normal([2, CLASSES], 3)
    assert (labelled(None, z) == labelled(list(z.argmax(-1)), z)).all()


def test_ignored_positions_have_no_gradient_and_do_not_dilute():
    z = normal([2, 3, CLASSES], 3)
    got = labelled([np.array([1, -100, 2]), np.array([-100, -100, -100])], z)
    expected = np.zeros(z.shape)
    for t, label in ((0, 1), (2, 2)):
        expected[0, t] = (softmax(z[0, t].astype(float)) - np.eye(CLASSES)[label]) / 2
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "labels",
    [[5, 0], [-1, 0], [0.0, 1.0], ["cat", "dog"], [[0, 1], [1, 2]], [[0], [1, 2]], [{"a": 1}, {"a": 2}], [None, None],
     [[[0], [1, 2]], 0]],
)  # fmt: skip
def test_labels_that_are_no_classes_are_refused_in_one_line(labels):
    with pytest.raises(
        MetricError, match=r"class number for every one of the 2 decisions of output 'logits'.*--loss"
    ) as e:
        labelled(labels, normal([2, CLASSES], 3))
    assert "\n" not in str(e.value)


def test_a_signed_term_without_class_scores_is_refused():
    objective = objective_of(ending(name="embedding"), "relative-l2", X)
    with pytest.raises(MetricError, match="needs class scores or a loss of your own"):
        objective.labelled({"embedding": X}, 1, [0])


def custom(function) -> Objective:
    return replace(objective_of(ending(SOFTMAX), "kl", X), custom=function, labels=[2.0, 3.0, 4.0], signed=True)


def test_a_loss_of_ones_own_sees_one_sample_at_a_time_with_its_label():
    objective = custom(lambda outputs, label: {"y": label * outputs["y"]})
    assert objective.seeded == ["h", "y"]
    assert objective.has_slope
    y = normal([2, CLASSES], 3)
    got = objective.labelled({"h": y, "y": y}, 2, [2, 0])
    assert set(got) == {"y"}
    np.testing.assert_allclose(got["y"], y * np.array([[4.0], [2.0]]), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda outputs, label: {"y": outputs["y"][0]}, r"shape \(5,\) at 'y'"),
        (lambda outputs, label: {"z": outputs["y"]}, "at 'z'; it must be one of the model's outputs"),
        (lambda outputs, label: outputs["missing"], "the loss given failed: KeyError"),
        (lambda outputs, label: outputs["y"], "gives a ndarray"),
    ],
)
def test_a_loss_of_ones_own_that_misbehaves_is_one_line(function, message: str):
    y = normal([2, CLASSES], 3)
    with pytest.raises(MetricError, match=message) as e:
        custom(function).labelled({"h": y, "y": y}, 2, [0, 1])
    assert "\n" not in str(e.value)
