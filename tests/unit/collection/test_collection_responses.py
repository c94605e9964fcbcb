"""What any change of a weight does: where the loss is quadratic, half its square is the measured rise."""

from __future__ import annotations

import numpy as np
import pytest
from builders import mlp, normal
from exhaustive import WIDE, Exhaustive, collection, squared, unit
from test_collection_joint import LINEAR

from onnx_lowrank.collection.responses import groups, responses
from onnx_lowrank.sensitivity.substitution import Substitutions, arriving


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", LINEAR)
def test_half_the_square_is_the_measured_rise(name: str, batch: int):
    model, shape = LINEAR[name]
    one = collection(model, normal([8, *shape], 5), Exhaustive("y", unit), repeats=WIDE, batch=batch)
    (site,) = one.inventory.sites
    changes = [normal(site.shape, 6), 0.01 * normal(site.shape, 7)]
    told: list[int] = []
    found = responses(one, {site.id: changes}, told.append)[site.id]
    assert found.shape == (len(one.samples), 2)
    assert sum(told) == len(one.samples)
    feeds = [one.feeds[i] for i in range(0, len(one.feeds), WIDE)]
    there = Substitutions.of(model, one.inventory, [site], feeds, squared, one.options.runtime)
    for place, change in enumerate(changes):
        measured = there.loss(site, arriving(one.inventory, site, one.inventory.weight(site) + change))
        assert 0.5 * np.mean(found[:, place] ** 2) == pytest.approx(measured, rel=2e-3)


def test_sites_are_in_groups_whose_changes_fit_in_half_of_the_memory():
    one = collection(
        mlp([12, 16, WIDE], [None, None], 3), normal([8, 12], 5), Exhaustive("y", unit), repeats=1, batch=1
    )
    first, second = one.inventory.sites
    counts = {first.id: 3, second.id: 2}
    assert [[site.id for site in group] for group in groups(one, counts)] == [[first.id, second.id]]
    many = {first.id: one.options.memory // (8 * first.parameters) + 1, second.id: 1}
    assert [[site.id for site in group] for group in groups(one, many)] == [[first.id], [second.id]]
    assert list(groups(one, {})) == []
