"""Moments that look at a part of an image's lines: they see what the whole image shows there, at every kind of site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from builders import build, found_in, node, normal, options, value, weight

from onnx_lowrank.collection.gradient_source import GradientSource
from onnx_lowrank.collection.projected_sides import sides_of
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.options import Runtime
from onnx_lowrank.types import Array

SHAPE = ["n", 8, 6, 6]


def model(end: str, kernel: int) -> onnx.ModelProto:
    """Return a convolution whose data nobody else reads ("Relu"), or a skip connection does ("Add")."""
    nodes = [
        node("Tanh", ["x"], ["t"]),
        node("Conv", ["t", "W", "b"], ["c"], "conv", pads=[kernel // 2] * 4),
        node(end, ["c"] if end == "Relu" else ["c", "t"], ["y"]),
    ]
    weights = {"W": weight((8, 8, kernel, kernel), 1), "b": normal([8], 2)}
    return build(nodes, [value("x", SHAPE)], [value("y", SHAPE)], weights)


def ones(values: Mapping[str, Array], samples: int, numbers: Sequence[int]) -> dict[str, Array]:
    return {"y": normal(list(values["y"].shape), 3)}


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("end", ["Relu", "Add"])
def test_some_lines_are_those_of_the_whole(end: str, kernel: int):
    """A kernel reaches over lines, so its gradient is cut after it was computed, not before."""
    graph = model(end, kernel)
    found = found_in(graph)
    feed = {"x": normal([2, 8, 6, 6], 4)}
    shapes = observed_ranks(graph, feed, runtime=Runtime(provider="cpu", threads=1))
    source = GradientSource(graph, found, found.sites, ["y"], shapes, options().runtime)
    (batch,) = source.run([feed], [3], ones, batch=1, separate=True)
    (site,) = found.sites
    for side in sides_of(site):
        ((z, e),) = batch.vectors(site, side)
        ((part_z, part_e),) = batch.vectors(site, side, 2)
        for whole, part in ((z, part_z), (e, part_e)):
            lines = whole.reshape(2, 6, 6, 8)[:, 3 % 2 :: 2].reshape(-1, 8)
            np.testing.assert_allclose(part, lines, rtol=1e-6, atol=1e-6)
