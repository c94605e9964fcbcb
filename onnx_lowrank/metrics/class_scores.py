"""Class scores in an output: where the class axis lies, whether rows are probabilities or logits, what they decide.

The class axis is the last, and axis 1 of outputs of rank 4 and more: (N, C, H, W) of a segmentation.
"""

from __future__ import annotations

import math

import numpy as np

from onnx_lowrank.types import Array

BROKEN = -1
"""The decision of a row with NaN in it: no class has this number."""


def rows(array: Array) -> Array:
    """Return (positions, classes) float64; positions in the order in which labels of their shape are read."""
    moved = np.moveaxis(array, 1, -1) if array.ndim >= 4 else array
    classes = class_count(array)
    return np.asarray(moved, np.float64).reshape(math.prod(moved.shape[:-1]), classes)


def class_count(array: Array) -> int:
    """Return the length of the class axis; 1 where there is no axis."""
    return int(array.shape[1 if array.ndim >= 4 else -1]) if array.ndim else 1


def probable(array: Array) -> bool:
    """Return whether every row lies in [0, 1] and sums to 1 (within 1e-3; 1e-2 for half precision)."""
    if array.dtype.kind != "f":
        return False
    scores = rows(array)
    if scores.size == 0 or scores.shape[1] < 2 or not np.isfinite(scores).all():
        return False
    slack = 1e-2 if array.dtype.itemsize < 4 else 1e-3
    inside = scores.min() >= -slack / 1000 and scores.max() <= 1 + slack
    return bool(inside and np.abs(scores.sum(1) - 1).max() <= slack)


def log_probabilities(array: Array, *, probabilities: bool) -> Array:
    """Return natural logarithms, (positions, classes) float64: of the rows, or of the softmax of the rows.

    Probabilities are not taken below what their number type can hold, so that none is log 0.
    """
    scores = rows(array)
    if not scores.size:
        return scores
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if probabilities:
            least = max(float(np.finfo(array.dtype).smallest_subnormal), 1e-45)
            scores = np.maximum(scores, least)
            result: Array = np.log(scores / scores.sum(1, keepdims=True))
        else:
            shifted = scores - scores.max(1, keepdims=True)
            result = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def decisions(array: Array) -> Array:
    """Return (positions,) class numbers: of the largest score, or the output itself where it holds whole numbers.

    The first of equal scores wins, so a model that answers the same everywhere decides for class 0.
    """
    if array.dtype.kind != "f":
        return np.asarray(array.reshape(-1), np.int64)
    scores = rows(array)
    if not scores.size:
        return np.zeros(0, np.int64)
    return np.where(np.isnan(scores).any(1), BROKEN, scores.argmax(1))


def ranks_of_labels(array: Array, classes: Array) -> Array:
    """Return (positions,) the place, from 0, of class `classes[i]` among row i's scores; C where the row has NaN.

    Equal scores are placed in the order of their class numbers, as argmax does.
    """
    scores = rows(array)
    own = np.take_along_axis(scores, classes[:, None], 1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]
    place = (scores > own).sum(1) + ((scores == own) & earlier).sum(1)
    result: Array = np.where(np.isnan(scores).any(1), scores.shape[1], place)
    return result
