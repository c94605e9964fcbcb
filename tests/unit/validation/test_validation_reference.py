"""The original runs once, as far as its outputs fit, and every sample is counted."""

from __future__ import annotations

import numpy as np
import pytest
from validation_models import CLASSES, LABELS, ORIGINAL, SAMPLES, WEIGHT, counting, feeds, noisy

from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import Divergence, Top
from onnx_lowrank.validation import Judge, Reference


@pytest.mark.parametrize(
    ("limit", "runs"), [(10**9, 40), (0, 120), (24 * CLASSES * 4 + 9, 72)], ids=["all kept", "none kept", "24 kept"]
)
def test_the_original_runs_once_as_far_as_its_outputs_fit(limit, runs):
    original = counting(WEIGHT)
    judge = Judge(original, feeds(40), None, Divergence(), Gate(max_drop=0.0, observed=True), limit=limit)
    original.rows = 0  # without the trial of batching
    first, second = judge.judge(noisy(0.1)), judge.judge(noisy(0.1))
    assert first == second
    assert original.rows == runs
    assert judge.reference.kept_bytes <= limit


def test_reference_yields_the_samples_in_order_however_much_it_keeps():
    samples = feeds(20)
    alone = [ORIGINAL.run(sample)["y"] for sample in samples]
    for limit in (10**6, 100, 0):
        reference = Reference(ORIGINAL, samples, limit=limit)
        for _ in range(2):
            found = [output["y"] for _, outputs in reference.batches() for output in outputs]
            assert np.allclose(np.array(found), np.array(alone), rtol=1e-5, atol=1e-6)


def test_progress_counts_every_sample_of_both_models_once():
    done = []
    judge = Judge(ORIGINAL, SAMPLES, LABELS, Top(1), Gate(max_drop=0.0, observed=True))
    judge.judge(noisy(0.1), done.append)
    assert sum(done) == 400
    judge.judge(noisy(0.1), done.append)
    assert sum(done) == 600
