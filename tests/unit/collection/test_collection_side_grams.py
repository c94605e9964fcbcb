"""Moments that rounding is made up for by: of inputs and gradients as they are in the graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import build, node, normal, value, weight
from exhaustive import Exhaustive, collection, unit
from test_collection_joint import LINEAR

from onnx_lowrank.collection.side_grams import bytes_of, side_grams


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", LINEAR)
def test_moments_are_sums_over_positions(name: str, batch: int):
    model, shape = LINEAR[name]
    one = collection(model, normal([8, *shape], 5), Exhaustive("y", unit), repeats=2, batch=batch)
    (site,) = one.inventory.sites
    (call,) = one.inventory.calls[site.id]
    told: list[int] = []
    found = side_grams(one, [site], range(len(one.samples)), told.append)[site.id]
    assert sum(told) == len(one.samples)
    rows = np.concatenate([call.op.vectors(call, feed["x"], site.shape[2:]) for feed in one.feeds])
    np.testing.assert_allclose(found.A[0], rows.T @ rows, rtol=1e-4, atol=1e-4 * np.abs(rows.T @ rows).max())
    assert found.B.shape == (1, site.shape[0], site.shape[0])
    assert np.linalg.eigvalsh(found.B[0]).min() > -1e-5 * found.B.max()
    assert bytes_of(site, looked_up=False) == 16 * (site.shape[0] ** 2 + site.shape[1] ** 2)


def test_of_a_table_it_is_counted_how_often_rows_are_looked_up():
    ids = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, [1, 3])
    model = build([node("Gather", ["E", "x"], ["y"], "look")], [ids], [value("y", [1, 3, 4])], {"E": weight((9, 4), 1)})
    looked = np.array([[0, 1, 1], [8, 1, 0], [5, 5, 5]])
    one = collection(model, looked, Exhaustive("y", unit), repeats=1, batch=1)
    (site,) = one.inventory.sites
    found = side_grams(one, [site], range(3))[site.id]
    np.testing.assert_array_equal(found.A, [2, 3, 0, 0, 0, 3, 0, 0, 1])
    assert found.B.shape == (1, 4, 4)
    assert bytes_of(site, looked_up=True) == 16 * (9 + 16)
