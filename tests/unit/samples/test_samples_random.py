"""Random samples, when there are no data."""

import numpy as np
import pytest

from onnx_lowrank.errors import DataError
from onnx_lowrank.runtime.runner import NUMPY_TYPES, TensorSpec
from onnx_lowrank.samples import random_samples
from onnx_lowrank.samples.conform import fit

IMAGE = TensorSpec("image", "tensor(float)", ("N", 3, None, "width"))
TOKENS = TensorSpec("ids", "tensor(int64)", ("N", "T"))
MASK = TensorSpec("mask", "tensor(bool)", ("N", 1, "T", "T"))


def shapes(*inputs):
    return {name: array.shape for name, array in random_samples(inputs, 1, seed=0).feeds[0].items()}


def test_free_dimensions():
    assert shapes(IMAGE) == {"image": (1, 3, 64, 64)}
    assert shapes(TOKENS) == {"ids": (1, 16)}
    assert shapes(TensorSpec("x", "tensor(float)", ())) == {"x": ()}
    assert shapes(TensorSpec("x", "tensor(float)", (8, -1, 5))) == {"x": (8, 16, 5)}


def test_one_name_has_one_size():
    assert shapes(MASK, TOKENS) == {"mask": (1, 1, 16, 16), "ids": (1, 16)}
    assert shapes(TensorSpec("x", "tensor(float)", ("T", "N", "T"))) == {"x": (1, 16, 1)}


def test_values_are_safe_and_not_constant():
    feeds = random_samples([IMAGE, TOKENS], 3, seed=0).feeds
    ids = np.concatenate([feed["ids"] for feed in feeds])
    assert set(ids.ravel().tolist()) == {0, 1}
    assert 0.9 < float(feeds[0]["image"].std()) < 1.1


def test_the_seed_and_the_sample_decide():
    one, same, other = (random_samples([IMAGE], 3, seed=seed) for seed in (1, 1, 2))
    assert one.hashes == same.hashes
    assert len({*one.hashes, *other.hashes}) == 6
    assert np.array_equal(one.feeds[2]["image"], one.feeds[2]["image"])
    assert (one.source, one.labels, len(one)) == ("random", None, 3)


@pytest.mark.parametrize("kind", NUMPY_TYPES)
def test_every_type_is_ready_to_run(kind):
    spec = TensorSpec("x", kind, ("N", 4))
    (feed,) = random_samples([spec], 1, seed=0).feeds
    assert fit(feed, [spec], "")["x"] is feed["x"]


def test_too_few():
    with pytest.raises(DataError, match=r"^the number of random samples must be 1 or more, not 0$"):
        random_samples([IMAGE], 0, seed=0)


def test_a_type_numpy_lacks():
    with pytest.raises(DataError, match=r"input 'x' is tensor\(bfloat16\), which numpy cannot hold"):
        random_samples([TensorSpec("x", "tensor(bfloat16)", (1,))], 1, seed=0)


def test_a_shape_that_is_given_holds_for_dimensions_of_its_names_too():
    given = {"ids": (2, 7)}
    (feed,) = random_samples([MASK, TOKENS], 1, 0, given).feeds
    assert {name: array.shape for name, array in feed.items()} == {"mask": (2, 1, 7, 7), "ids": (2, 7)}
    (feed,) = random_samples([IMAGE], 1, 0, {"image": (1, 3, 20, 30)}).feeds
    assert feed["image"].shape == (1, 3, 20, 30)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": (1,)}, "no input is called so; the inputs are mask, ids"),
        ({"ids": (1, 2, 3)}, "1x2x3 does not fit, the model has NxT"),
        ({"mask": (1, 5, 4, 4)}, "1x5x4x4 does not fit, the model has Nx1xTxT"),
        ({"ids": (1, 0)}, "1x0 does not fit"),
        ({"mask": (1, 1, 4, 5)}, "the dimension 'T' is 4 and 5"),
        ({"ids": (1, 4), "mask": (1, 1, 5, 5)}, "the dimension 'T' is 4 and 5"),
    ],
)
def test_a_shape_that_is_no_inputs_is_one_line(given, said):
    with pytest.raises(DataError) as caught:
        random_samples([MASK, TOKENS], 1, 0, given)
    assert said in str(caught.value)
