"""Which exceptions become a reason to leave a weight as it is: those of onnx's evaluator, and no bug of our own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from builders import build, found_in, node, value, weight
from onnx import TensorProto

from onnx_lowrank.types import Array, Why
from onnx_lowrank.weights.transforms import EVALUATOR_ERRORS, NotComputable, apply_transforms

INTEGERS = np.random.default_rng(0).integers(-100, 100, (16, 24)).astype(np.int8)


def behind_a_transpose() -> onnx.ModelProto:
    nodes = [node("Transpose", ["W"], ["w"], "turn", perm=[1, 0]), node("MatMul", ["x", "w"], ["y"], "fc")]
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 24])], {"W": weight((24, 16), 0)})


def behind_scales(scale: Array, axis: int) -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", ["W", "s"], ["w"], "dq", axis=axis), node("MatMul", ["x", "w"], ["y"], "fc")]
    return build(nodes, [value("x", ["n", 16])], [value("y", ["n", 24])], {"W": INTEGERS, "s": scale})


class Failing:
    """An evaluator that cannot compute anything."""

    error: type[Exception]

    def __init__(self, *_: object) -> None:
        pass

    def run(self, *_: object) -> Sequence[Array]:
        raise self.error("some text")


@pytest.mark.parametrize("error", EVALUATOR_ERRORS)
def test_what_the_evaluator_raises_is_a_reason_with_the_operator(error, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Failing, "error", error, raising=False)
    monkeypatch.setattr("onnx_lowrank.weights.transforms.ReferenceEvaluator", Failing)
    found = found_in(behind_a_transpose())
    assert not found.sites
    assert (found.skips[0].why, found.skips[0].detail) == (
        Why.OPERATOR,
        f"behind Transpose, which cannot be computed here ({error.__name__})",
    )


@pytest.mark.parametrize("error", EVALUATOR_ERRORS)
@pytest.mark.parametrize("place", ["Storage", "_read_by"])
def test_a_bug_is_not_taken_for_a_reason(error, place: str, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise error("a bug")

    monkeypatch.setattr(f"onnx_lowrank.weights.source.{place}", broken)
    with pytest.raises(error, match="a bug"):
        found_in(behind_a_transpose())


@pytest.mark.parametrize(
    ("step", "constants", "why"),
    [
        (node("Cast", ["W"], ["w"], to=TensorProto.INT64), {}, "a cast to what is no float"),
        (node("DequantizeLinear", ["W", "s"], ["w"], axis=0), {"s": np.ones(3, np.float32)}, "do not go together"),
        (node("DequantizeLinear", ["W", "s"], ["w"], block_size=8), {"s": np.ones(16, np.float32)}, "scales of blocks"),
        (
            node("QuantizeLinear", ["W", "s", "z"], ["w"]),
            {"s": np.float32(1), "z": np.zeros((), np.int16)},
            "numbers of int16",
        ),
    ],
)
def test_what_is_not_computed_here_says_why(step: onnx.NodeProto, constants: dict[str, Array], why: str):
    given = {name: np.asarray(array) for name, array in constants.items()}
    with pytest.raises(NotComputable, match=why) as caught:
        apply_transforms(INTEGERS, [step], given, 21)
    assert caught.value.op_type == step.op_type


def test_scales_that_do_not_fit_the_weight_are_a_reason():
    assert found_in(behind_scales(np.full(24, 0.01, np.float32), 1)).sites
    (skip,) = [skip for skip in found_in(behind_scales(np.full(23, 0.01, np.float32), 1)).skips if skip.weight == "W"]
    assert (skip.why, skip.detail) == (Why.QUANTISED, "its scales belong neither to inputs nor to outputs")
