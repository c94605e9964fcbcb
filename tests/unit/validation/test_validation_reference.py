"""The original runs once, as far as its outputs fit, and every sample is counted."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from validation_models import CLASSES, LABELS, ORIGINAL, SAMPLES, WEIGHT, counting, feeds, noisy

from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import Divergence, Top
from onnx_lowrank.validation import Judge, Reference
from onnx_lowrank.validation.outputs_on_disk import OutputsOnDisk


@pytest.mark.parametrize(
    ("limit", "runs"), [(10**9, 40), (0, 120), (24 * CLASSES * 4 + 9, 72)], ids=["all kept", "none kept", "24 kept"]
)
def test_the_original_runs_once_as_far_as_its_outputs_fit(limit, runs):
    original = counting(WEIGHT)
    judge = Judge(original, feeds(40), None, Divergence(), Gate(max_drop=0.0, observed=True), limit=limit, disk=0)
    original.rows = 0  # without the trial of batching
    first, second = judge.judge(noisy(0.1)), judge.judge(noisy(0.1))
    assert first == second
    assert original.rows == runs
    assert judge.reference.kept_bytes <= limit


def test_reference_yields_the_samples_in_order_however_much_it_keeps():
    samples = feeds(20)
    alone = [ORIGINAL.run(sample)["y"] for sample in samples]
    for limit in (10**6, 100, 0):
        for disk in (None, 10**6, 300, 0):
            reference = Reference(ORIGINAL, samples, limit=limit, disk=disk)
            for _ in range(2):
                found = [output["y"] for _, outputs in reference.batches() for output in outputs]
                assert np.allclose(np.array(found), np.array(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0, 24 * CLASSES * 4 + 9], ids=["none in memory", "24 in memory"])
def test_what_memory_does_not_hold_is_kept_on_disk_and_not_computed_again(limit):
    original = counting(WEIGHT)
    gate = Gate(max_drop=0.0, observed=True)
    judge = Judge(original, feeds(40), None, Divergence(), gate, limit=limit)
    original.rows = 0
    kept = Judge(counting(WEIGHT), feeds(40), None, Divergence(), gate)
    assert judge.judge(noisy(0.1)) == judge.judge(noisy(0.1)) == kept.judge(noisy(0.1))
    assert original.rows == 40
    assert judge.reference.kept_bytes <= limit


def test_where_the_disk_refuses_the_original_runs_again(monkeypatch, tmp_path):
    original = counting(WEIGHT)
    judge = Judge(original, feeds(40), None, Divergence(), Gate(max_drop=0.0, observed=True), limit=0)
    original.rows = 0
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert judge.judge(noisy(0.1)) == judge.judge(noisy(0.1))
    assert original.rows == 120


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 0, 3), np.int64), np.float16(3.5), np.arange(24.0).reshape(2, 3, 4).T, np.array([[True], [False]])],
    ids=["nothing", "one number", "not contiguous", "flags"],
)
def test_arrays_come_back_as_they_were(array):
    disk = OutputsOnDisk()
    for name in ("first", "second"):
        stored = disk.put({name: np.asarray(array), "other": np.ones(3)})
        back = disk.get(stored)
        assert back[name].dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(back[name], np.asarray(array))
        back["other"] += 1  # whoever reads them may write to them
        assert disk.get(stored)["other"].tolist() == [1, 1, 1]


def test_what_is_no_plain_array_and_what_is_too_large_stays_out():
    disk = OutputsOnDisk(100)
    assert disk.put({"y": np.array(["a", "b"], object)}) is None
    assert disk.put({"y": [{1: 2.0}]}) is None
    assert disk.put({"y": np.zeros(13)}) is None
    assert disk.put({"y": np.zeros(12)}) is not None
    assert disk.put({"y": np.zeros(1)}) is None


def test_progress_counts_every_sample_of_both_models_once():
    done = []
    judge = Judge(ORIGINAL, SAMPLES, LABELS, Top(1), Gate(max_drop=0.0, observed=True))
    judge.judge(noisy(0.1), done.append)
    assert sum(done) == 400
    judge.judge(noisy(0.1), done.append)
    assert sum(done) == 600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_ends_it_and_what_is_there_stays():
    disk = OutputsOnDisk()
    stored = disk.put({"y": np.arange(5.0)})
    whole = disk._file
    disk._file = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115
    assert disk.put({"y": np.ones(9)}) is None
    disk._file.close()
    disk._file = whole
    assert disk.put({"y": np.ones(1)}) is None  # nothing more, from then on
    assert disk.get(stored)["y"].tolist() == [0, 1, 2, 3, 4]
