"""What pass 1 keeps of a sample for pass 2: the same projections, and the same scores, as from running it again."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
from builders import build, found_in, mlp, node, normal, observed, options, run, samples_of, value, weight
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.collection import sample_cache as module
from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.sample_cache import SampleCache, cached, projected, size
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks
from onnx_lowrank.graph.model_io import content_hash
from onnx_lowrank.metrics import listed
from onnx_lowrank.numerics.kronecker_metric import Basis, project
from onnx_lowrank.options import Runtime


def pairs_of(calls: int, positions: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (normal([positions, width], i).astype(np.float32), normal([positions, width], 9 + i).astype(np.float32))
        for i in range(calls)
    ]


@given(calls=st.integers(1, 3), positions=st.integers(1, 12), width=st.integers(1, 8))
@settings(max_examples=30)
def test_what_is_kept_projects_as_the_sample_itself_and_takes_no_more_than_said(calls, positions, width):
    pairs = pairs_of(calls, positions, width)
    basis = Basis("out", normal([width, width], 30), normal([width, width], 31), 0.1).single()
    kept = cached(pairs)
    assert sum(array.nbytes for array in kept) == size(width, calls * positions)
    expected = sum(project(basis, z, e, 1) for z, e in pairs)
    scale = sum(np.abs((z @ basis.read) * (e @ basis.write)).sum(0) for z, e in pairs)
    assert (np.abs(projected(basis, kept) - expected) <= 1e-5 * scale + 1e-6).all()


def test_samples_come_back_from_the_file_in_any_order():
    file = SampleCache(100, 1e6)
    each = {
        number: {("a", "out"): cached(pairs_of(1, number, 4)), ("b", "in"): cached(pairs_of(2, 9, 3))}
        for number in (1, 7)
    }
    for number, found in each.items():
        file.put(number, 0.5 * number, found)
    for number in (7, 1, 7):
        scale, got = file.get(number)
        assert (scale, got.keys()) == (0.5 * number, each[number].keys())
        for key, arrays in got.items():
            for one, other in zip(arrays, each[number][key], strict=True):
                np.testing.assert_array_equal(one, other)
    file.close()
    assert not file.open


def test_nothing_is_kept_beyond_the_limit_or_the_room_on_disk(monkeypatch: pytest.MonkeyPatch):
    assert not SampleCache(101, 100).open
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 150})())
    assert not SampleCache(80, 100).open


def convolutions() -> CollectionSetup:
    """Positions more and fewer than channels, a kernel at two places, data with several readers."""
    weights = {"W": weight((6, 6, 3, 3), 1), "V": weight((4, 6, 1, 1), 2), "U": weight((4, 8), 3)}
    nodes = [
        node("Conv", ["x", "W"], ["h"], "one", pads=[1, 1, 1, 1]),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "W"], ["g"], "two", pads=[1, 1, 1, 1]),
        node("Add", ["g", "r"], ["s"]),
        node("Conv", ["s", "V"], ["v"], "three", strides=[2, 2]),
        node("GlobalAveragePool", ["v"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "U"], ["y"], "fc"),
    ]
    model = build(nodes, [value("x", ["n", 6, 5, 4])], [value("y", ["n", 8])], weights)
    return collection_of(model, normal([24, 6, 5, 4], 5))


def collection_of(model, x) -> CollectionSetup:
    feeds = [{"x": row[None]} for row in x]
    found = found_in(model)
    shapes = observed_ranks(model, feeds[0], runtime=Runtime(provider="cpu", threads=1))
    objective = Objective.of(model, "relative-l2", listed([run(model, feed) for feed in feeds[:8]]), 0)
    seen, samples = observed(model, found, feeds), samples_of(feeds)
    return CollectionSetup(model, content_hash(model), found, seen, samples, objective, shapes, options(), 4, True)


@pytest.mark.parametrize(
    "make", [convolutions, lambda: collection_of(mlp([12, 16, 8], [None, None], 3), normal([24, 12], 5))]
)
def test_scores_are_those_of_samples_run_again(make, monkeypatch: pytest.MonkeyPatch):
    one = make()
    runs = []
    monkeypatch.setattr(Objective, "sampled", counted(Objective.sampled, runs))
    kept = joint_scores(one)
    once = sum(runs)
    assert once == len(one.feeds)
    monkeypatch.setattr(SampleCache, "open", False)
    again = joint_scores(one)
    assert sum(runs) - once == len(one.feeds) + sum(map(len, one.folds.scored))
    assert kept.scored.keys() == again.scored.keys() != set()
    for key, scored in kept.scored.items():
        other = again.scored[key]
        assert scored.first == other.first
        np.testing.assert_allclose(scored.tails, other.tails, rtol=1e-4, atol=1e-5 * np.abs(other.tails).max())


def counted(function, runs: list[int]):
    def sampled(self, values, samples, numbers):
        runs.append(len(numbers))
        return function(self, values, samples, numbers)

    return sampled


def test_a_batch_as_one_unit_is_run_again():
    one = convolutions()
    together = joint_scores(replace(one, separate=False))
    assert all(len(scored.tails) < len(one.feeds) / 2 for scored in together.scored.values())


def test_a_full_disk_makes_the_samples_run_again(monkeypatch: pytest.MonkeyPatch):
    one = convolutions()
    expected = joint_scores(one)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    found = joint_scores(one)
    for key, scored in expected.scored.items():
        np.testing.assert_allclose(found.scored[key].rise, scored.rise, rtol=1e-3, atol=1e-6 * scored.rise.max())


class Full:
    """A file on a disk without room."""

    def seek(self, *_: int) -> int:
        return 0

    def write(self, _: object) -> int:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        """Nothing to close."""
