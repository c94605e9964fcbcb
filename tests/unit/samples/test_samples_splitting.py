"""Calibration, validation, test: disjoint, by the seed, and said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError
from onnx_lowrank.samples import Samples, make_split


def a_set(contents, source="cal.npz", notes=()):
    """Return samples whose hashes, values and labels are the given numbers."""
    feeds = [{"x": np.full((1, 1), value, np.float32)} for value in contents]
    return Samples(feeds, np.array(contents), source, tuple(f"h{value}" for value in contents), notes)


def refusal(*sets, **options):
    with pytest.raises(DataError) as caught:
        make_split(*sets, seed=0, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_without_validation_a_fifth_is_drawn_and_said():
    split = make_split(a_set(range(512)), seed=0)
    assert (len(split.calibration), len(split.screening), len(split.validation), split.test) == (359, 51, 102, None)
    assert split.notes == ("no --validation given: 410 of cal.npz's 512 samples calibrate, 102 validate (seed 0)",)
    assert not set(split.calibration.hashes) & set(split.screening.hashes)
    assert not set(split.calibration.hashes) & set(split.validation.hashes)


def grouped(contents, groups, source="cal.npz"):
    made = a_set(contents, source)
    return Samples(made.feeds, made.labels, source, made.hashes, (), tuple(groups))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=20, max_size=80), st.integers(0, 9))
def test_what_shares_content_or_a_group_goes_to_one_side(pairs, seed):
    contents, groups = zip(*pairs, strict=True)
    try:
        split = make_split(grouped(contents, [f"g{g}" for g in groups]), seed=seed)
    except DataError:
        return  # all of them are linked
    sides = [part for part in (split.calibration, split.screening, split.validation) if part is not None]
    assert sum(map(len, sides)) == len(pairs)
    for one in sides:
        for other in sides:
            if one is not other:
                assert not set(one.hashes) & set(other.hashes)
                assert not set(one.groups) & set(other.groups)


def test_groups_in_two_sets_are_refused_like_equal_samples():
    text = refusal(grouped([1, 2], ["a", "b"]), grouped([3, 4], ["b", "c"], "val.npz"))
    assert "1 of the 2 samples of --validation (val.npz) share their group with samples in --data (cal.npz)" in text


def test_the_fingerprint_is_of_inputs_and_labels_in_any_order():
    one, same, other = a_set([1, 2, 3]), a_set([3, 1, 2]), a_set([1, 2, 4])
    assert one.fingerprint == same.fingerprint != other.fingerprint
    relabelled = Samples(one.feeds, np.array([1, 2, 9]), "x", one.hashes)
    assert relabelled.fingerprint != one.fingerprint


def test_feeds_labels_and_hashes_stay_together():
    split = make_split(a_set(range(20)), seed=3)
    for part in (split.calibration, split.validation):
        values = [int(feed["x"][0, 0]) for feed in part.feeds]
        assert values == part.labels.tolist()
        assert values == [int(digest[1:]) for digest in part.hashes]


def test_the_seed_decides():
    one, same, other = (make_split(a_set(range(100)), seed=seed).validation.hashes for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_the_share_is_the_callers():
    assert len(make_split(a_set(range(10)), seed=0, share=0.5).validation) == 5


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_two_samples_are_enough(share):
    split = make_split(a_set([1, 2]), seed=0, share=share)
    assert (len(split.calibration), len(split.validation)) == (1, 1)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.99, 9)])
def test_both_parts_have_at_least_one(share, count):
    assert len(make_split(a_set(range(10)), seed=0, share=share).validation) == count


def test_one_sample_is_not():
    assert refusal(a_set([1])) == (
        "cal.npz: 1 sample is too few to calibrate and to validate; give more (in a directory every file is one"
        " sample), or others as --validation"
    )


def test_equal_samples_alone_cannot_be_split():
    assert refusal(a_set([7, 7, 7])) == (
        "cal.npz: all 3 samples are equal, so none can be held out; give others as --validation"
    )


def test_groups_larger_than_the_share_are_not_torn():
    split = make_split(a_set([1] * 6 + [2] * 4), seed=0)
    assert split.validation.labels.tolist() == [2] * 4


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0])
def test_a_share_that_is_none(share):
    assert refusal(a_set(range(9)), share=share) == f"the share that validates must be between 0 and 1, not {share}"


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.integers(0, 5), st.floats(0.05, 0.95))
def test_a_split_is_a_partition_by_content(contents, seed, share):
    data = a_set(contents)
    if len(set(contents)) < 2:
        with pytest.raises(DataError, match="samples are equal"):
            make_split(data, seed=seed, share=share)
        return
    split = make_split(data, seed=seed, share=share)
    assert sorted([*split.calibration.labels, *split.validation.labels]) == sorted(contents)
    assert len(split.calibration) >= 1
    assert len(split.validation) >= 1
    assert not set(split.calibration.hashes) & set(split.validation.hashes)


# Given sets


def test_given_sets_are_taken_as_they_are():
    data, validation, test = a_set([1, 2]), a_set([3], "val.npz"), a_set([4], "test.npz")
    split = make_split(data, validation, test, seed=0)
    assert (split.calibration, split.validation, split.test) == (data, validation, test)
    assert split.notes == ()


def test_one_sample_calibrates_where_validation_is_given():
    assert len(make_split(a_set([1]), a_set([2]), seed=0).calibration) == 1


def test_what_was_done_to_the_data_is_said_once():
    data, validation = a_set([1, 2], notes=("rows left out",)), a_set([3], "val.npz", ("rows left out", "cast"))
    assert make_split(data, validation, seed=0).notes == ("rows left out", "cast")
    assert make_split(data, seed=0).notes[1:] == ("rows left out",)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (
            ([1, 2, 3], [3, 4, 3], None),
            "2 of the 3 samples of --validation (validation.npz) are also in --data (data.npz)",
        ),
        (
            ([1, 2, 3], None, [2, 9]),
            "1 of the 2 samples of --test (test.npz) are also in --data (data.npz)",
        ),
        (
            ([1, 2, 3], [4, 5], [9, 5, 4]),
            "2 of the 3 samples of --test (test.npz) are also in --validation (validation.npz)",
        ),
    ],
)
def test_the_same_data_twice_are_refused_unless_forced(sets, said):
    given = [s and a_set(s, f"{name}.npz") for s, name in zip(sets, ("data", "validation", "test"), strict=True)]
    assert refusal(*given) == (
        f"{said}: what is measured there would not be held out; give other samples, or --force-overlap to allow it"
    )
    notes = make_split(*given, seed=0, force=True).notes
    assert f"{said}: what is measured there is not held out (--force-overlap)" in notes


def test_every_forced_overlap_is_noted():
    same = [a_set([1, 2], f"{name}.npz") for name in "abc"]
    assert len(make_split(*same, seed=0, force=True).notes) == 3


def test_duplicates_within_a_set_are_no_overlap():
    assert make_split(a_set([1, 1]), a_set([2, 2]), seed=0).notes == ()
