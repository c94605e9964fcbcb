"""Samples and the lazy sequences under them."""

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples import Samples
from onnx_lowrank.samples.sets import Lazy, pick


def a_set(labels=None, count=4):
    feeds = [{"x": np.full((1, 2), float(i), np.float32)} for i in range(count)]
    return Samples(feeds, labels, "cal.npz", tuple("abcdefgh"[:count]), ("a note",))


def test_lazy_makes_an_item_only_when_asked():
    made = []
    items = Lazy(5, lambda i: made.append(i) or i * 10)
    assert made == []
    assert items[3] == 30
    assert items[-1] == 40
    assert made == [3, 4]


def test_lazy_slices_and_picks_are_lazy_too():
    made = []
    items = Lazy(10, lambda i: made.append(i) or i)
    part = items[2:8:2]
    chosen = pick(items, [9, 0, 9])
    assert made == []
    assert list(part) == [2, 4, 6]
    assert list(chosen) == [9, 0, 9]


@pytest.mark.parametrize("index", [5, -6])
def test_lazy_ends(index):
    with pytest.raises(IndexError):
        Lazy(5, lambda i: i)[index]


def test_subset_of_an_array_of_labels():
    part = a_set(np.array([10, 11, 12, 13])).subset([2, 0])
    assert [float(feed["x"][0, 0]) for feed in part.feeds] == [2.0, 0.0]
    assert isinstance(part.labels, np.ndarray)
    assert part.labels.tolist() == [12, 10]
    assert part.hashes == ("c", "a")
    assert (part.source, part.notes, len(part)) == ("cal.npz", ("a note",), 2)


def test_subset_of_a_list_of_labels_under_another_name():
    part = a_set(["p", [1, 2], "r", "s"]).subset(np.array([1, 3]), source="half")
    assert part.labels == [[1, 2], "s"]
    assert part.source == "half"


def test_empty_subset_keeps_labels_countable():
    part = a_set(np.array([10, 11, 12, 13])).subset([])
    assert (len(part), len(part.labels)) == (0, 0)


def test_labels_of_the_wrong_length_are_refused():
    with pytest.raises(DataError, match=r"^cal\.npz: 3 labels for 4 samples; give one label a sample$"):
        a_set([1, 2, 3])


def test_hashes_go_with_feeds():
    with pytest.raises(ValueError, match="1 hashes for 0 samples"):
        Samples([], None, "", ("a",))
