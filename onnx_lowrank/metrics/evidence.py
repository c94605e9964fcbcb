"""What an output holds, read off its name and a few samples: class scores, unit vectors, or anything else."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from onnx_lowrank.metrics.class_scores import class_count, probable
from onnx_lowrank.metrics.metric import floating
from onnx_lowrank.types import Array

CLASS_NAMES = re.compile(r"logit|softmax|prob(?!lem)", re.IGNORECASE)
CLASS_COUNTS = {10: "CIFAR-10, MNIST", 100: "CIFAR-100", 365: "Places365", 1000: "ImageNet", 1001: "ImageNet and none"}
CLASS_COUNTS |= {21841: "ImageNet-21k", 21843: "ImageNet-21k"}
"""Widths of (N, C) outputs that hardly anything but a classifier has."""


def class_evidence(name: str, samples: Sequence[Array]) -> str | None:
    """Return why output `name` holds a score a class, as a clause; None where nothing says so.

    Evidence is asked for, as agreement of the largest element says nothing of a vector that is no choice: a broken
    model could pass.
    """
    if not samples or not all(floating(sample) and sample.ndim for sample in samples):
        return None
    widths = {class_count(sample) for sample in samples}
    if len(widths) != 1 or min(widths) < 2:
        return None
    width = widths.pop()
    if all(probable(sample) for sample in samples):
        return f"the rows of output {name!r} are probabilities of {width} classes"
    if CLASS_NAMES.search(name):
        return f"output {name!r} is named like scores of {width} classes"
    if width in CLASS_COUNTS and all(sample.ndim <= 2 for sample in samples) and not unit_rows(samples):
        return f"output {name!r} has {width} columns, as many as {CLASS_COUNTS[width]} has classes"
    return None


def unit_rows(samples: Sequence[Array]) -> bool:
    """Return whether all samples are vectors of length 1 along their last axis (within 1e-3; 1e-2 for half)."""
    for sample in samples:
        if not floating(sample) or sample.ndim == 0 or sample.shape[-1] < 2 or not sample.size:
            return False
        slack = 1e-2 if sample.dtype.itemsize < 4 else 1e-3
        lengths = np.linalg.norm(sample.astype(np.float64), axis=-1)
        if not np.isfinite(lengths).all() or np.abs(lengths - 1).max() > slack:
            return False
    return bool(samples)
