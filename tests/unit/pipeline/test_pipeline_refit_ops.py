"""Refit at operators whose last stage may be another operator than their own: it comes closer to the original."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import ANY, build, node, normal, options, plan_of, relative_squared, run, the_site, value, weight
from onnx import TensorProto

from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.refit import refit
from onnx_lowrank.schemes import by_name
from onnx_lowrank.types import Array, Feed


def table() -> tuple[onnx.ModelProto, list[Feed]]:
    """Tokens that come from a tenth of the rows."""
    nodes = [node("Gather", ["W", "x"], ["y"], "op")]
    W = np.ascontiguousarray(weight((12, 60), 1).T)
    feeds = [{"x": x} for x in np.random.default_rng(2).integers(0, 20, (40, 3))]
    return build(nodes, [value("x", [3], TensorProto.INT64)], [value("y", [3, 12])], {"W": W}), feeds


def transposed() -> tuple[onnx.ModelProto, list[Feed]]:
    nodes = [node("ConvTranspose", ["x", "W", "b"], ["y"], "op", strides=[2], pads=[1, 0])]
    W = np.ascontiguousarray(weight((12, 8, 3), 1).swapaxes(0, 1))
    model = build(nodes, [value("x", [1, 8, 6])], [value("y", [ANY] * 3)], {"W": W, "b": normal([12], 3)})
    return model, mixed((40, 1, 8, 6), axis=2)


def product(equation: str, inputs: list[str]) -> tuple[onnx.ModelProto, list[Feed]]:
    nodes = [node("Einsum", inputs, ["y"], "op", equation=equation)]
    W = np.ascontiguousarray(weight((12, 8), 1).T.reshape(8, 3, 4))
    return build(nodes, [value("x", [1, 5, 8])], [value("y", [ANY] * 4)], {"W": W}), mixed((40, 1, 5, 8), axis=3)


def mixed(shape: tuple[int, ...], axis: int) -> list[Feed]:
    """Inputs whose channels are correlated: what a basis of the plain weight does not know."""
    turn = np.linalg.qr(normal([shape[axis]] * 2, 5))[0] * 0.5 ** np.arange(shape[axis])
    x: Array = np.moveaxis(np.moveaxis(normal(shape, 4), axis, -1) @ turn.T, -1, axis)
    return [{"x": np.ascontiguousarray(one, np.float32)} for one in x]


CASES = {
    "Gather": (table, "svd"),
    "ConvTranspose": (transposed, "kernel-first"),
    "Einsum": (lambda: product("abc,cde->abde", ["x", "W"]), "svd"),
    "Einsum, W first": (lambda: product("cde,abc->abed", ["W", "x"]), "svd"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_last_factor_comes_closer(name: str):
    make, scheme = CASES[name]
    model, feeds = make()
    found, site = the_site(model)
    plan = plan_of({site.id: (scheme, (4,))}, found)
    plain = {(site.id, scheme): by_name(scheme).factor(found.weight(site), None, None, (4,))}
    repaired = refit(model, found, plan, plain, feeds, options().runtime)

    def error(factors: dict[tuple[str, str], object]) -> float:
        changed = rewrite(model, found, plan, factors)
        pairs = [(run(model, feed)["y"], run(changed, feed)["y"]) for feed in feeds]
        return relative_squared(*(np.stack(side) for side in zip(*pairs, strict=True)))

    assert error(repaired) < 0.9 * error(plain)
