"""What any change of a weight does: where the loss is quadratic, half its square is the measured rise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import mlp, normal, run
from exhaustive import WIDE, Exhaustive, collection, squared, unit
from test_collection_joint import LINEAR

from onnx_lowrank.collection.responses import InIntegers, groups, responses
from onnx_lowrank.passes.activation_ranges import ranges
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.schemes import SCHEMES
from onnx_lowrank.sensitivity.substitution import Substitutions, arriving
from onnx_lowrank.types import Choice, Cost, Form, Option, Plan
from onnx_lowrank.weights.inventory import RangeSamples


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


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("name", [name for name in LINEAR if "weight first" not in name])
def test_what_integers_change_is_what_the_written_model_loses(name: str, rank: int):
    """Ranges found at every call are those of a sample here. A convolution's output is rounded, too, which counts where
    it is read next: its own loss is at most a part of what is measured, and not a small one.
    """
    model, shape = LINEAR[name]
    one = collection(model, normal([8, *shape], 5), Exhaustive("y", unit), repeats=WIDE, batch=1)
    (site,), feeds = one.inventory.sites, [one.feeds[i] for i in range(0, len(one.feeds), WIDE)]
    found = replace(one.inventory, ranged=RangeSamples(feeds, one.options.runtime))
    (number,) = found.arithmetic(site)
    form, factors = Form(), {}
    if rank:
        svd = SCHEMES[0]
        rank = min(rank, max(svd.ranks(site.shape, 1, 1), default=(2,))[0])
        factors = {(site.id, svd.name): svd.factor(found.weight(site), None, None, (rank,), 1)}
        form = Form(svd.name, (rank,))
    chain = factors[site.id, form.scheme].chain(form.ranks) if rank else found.whole(site)
    storage = found.storage(site, number.name)
    low, high = ranges(model, ["x"], feeds, one.options.runtime)["x"]
    span = high - low if number.activations == "static" else 0.0
    change = InIntegers(storage.settled(chain), storage.seen(chain), span)
    assert change.parameters == 2 * sum(stage.weight.size for stage in chain.stages)
    predicted = 0.5 * np.mean(responses(one, {site.id: [change]})[site.id] ** 2)
    exact, made = (
        rewrite(model, found, Plan((Choice(site.id, site.weight, Option(each, Cost())),)), factors)
        for each in (form, replace(form, storage=number.name))
    )
    measured = np.mean([squared(run(exact, feed), run(made, feed), 1) for feed in feeds])
    assert measured > 1e-8
    least, most = (0.3, 1.05) if span else (0.9, 1.1)
    assert least < predicted / measured < most


def test_a_fixed_range_is_wider_and_loses_more():
    """As wide again as the samples' own: four times as much by what is read, and by what lies inside."""
    model, shape = LINEAR["MatMul"]
    one = collection(model, normal([64, *shape], 5), Exhaustive("y", unit), repeats=WIDE, batch=1)
    (site,) = one.inventory.sites
    chain = SCHEMES[0].factor(one.inventory.weight(site), None, None, (3,), 1).chain((3,))
    widths = [float(max(x.max(), 0) - min(x.min(), 0)) for x in (feed["x"] for feed in one.feeds)]
    found = responses(one, {site.id: [InIntegers(chain, chain), InIntegers(chain, chain, 20 * max(widths))]})[site.id]
    own, wide = np.mean(found**2, axis=0)
    assert wide / own == pytest.approx(np.mean((20 * max(widths) / np.array(widths)) ** 2), rel=0.4)


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
