"""Task metrics of the zoo in the product's custom form; numpy only.

Use one as `--metric models/metrics.py:NAME`. `outputs[name][i]` is what the model returned for
sample i alone; an array of n values is to be averaged, a float is an aggregate over all samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Outputs = Mapping[str, Sequence[Array]]
Labels = Array | Sequence[Array]

CREPE_FIRST_CENT = 1997.3794084376191
CREPE_BIN_CENTS = 20.0


def _only(outputs: Outputs) -> Sequence[Array]:
    """Return the samples of the first output."""
    return next(iter(outputs.values()))


def _rows(labels: Labels) -> Array:
    """Return labels as one row a sample, whether or not they carry a batch axis of one."""
    return np.asarray(labels).reshape(len(labels), -1)


def _crepe_error(outputs: Outputs, labels: Labels) -> Array:
    """Return |pitch error| in cents: mean of the bins around the peak, weighted by probability."""
    probability = np.stack([np.asarray(x, float).reshape(-1) for x in _only(outputs)])
    bins = np.arange(probability.shape[1])
    near = np.abs(bins - probability.argmax(1)[:, None]) <= 4
    weight = probability * near
    cents = CREPE_FIRST_CENT + CREPE_BIN_CENTS * (weight @ bins) / weight.sum(1)
    truth = 1200.0 * np.log2(_rows(labels)[:, 0].astype(float) / 10.0)
    error: Array = np.abs(cents - truth)
    return error


def crepe_pitch_accuracy(outputs: Outputs, labels: Labels) -> Array:
    """Return 1 where the pitch is within 50 cents of the label (Hz)."""
    return (_crepe_error(outputs, labels) <= 50.0).astype(float)


def crepe_pitch_accuracy_25(outputs: Outputs, labels: Labels) -> Array:
    """Return 1 where the pitch is within 25 cents of the label (Hz)."""
    return (_crepe_error(outputs, labels) <= 25.0).astype(float)


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0.0 else 0.0


def _ranks(values: Array) -> Array:
    """Return ranks, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Array = (ends - (counts - 1) / 2.0)[inverse.reshape(-1)]
    return ranks


def _pair_cosines(outputs: Outputs) -> Array:
    """Return the cosine of the two rows of every sample."""
    pairs = np.stack([np.asarray(x, float) for x in _only(outputs)])
    pairs = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    cosines: Array = (pairs[:, 0] * pairs[:, 1]).sum(-1)
    return cosines


def pair_correlation(outputs: Outputs, labels: Labels) -> float:
    """Return Pearson's correlation of the pairs' cosines with the labels.

    With a second column, the kind of the pair, it is taken of every kind apart: the worst counts.
    """
    cosines, rows = _pair_cosines(outputs), _rows(labels).astype(float)
    kinds = rows[:, 1] if rows.shape[1] > 1 else np.zeros(len(rows))
    return min(_pearson(cosines[kinds == kind], rows[kinds == kind, 0]) for kind in np.unique(kinds))


def spearman_pairs(outputs: Outputs, labels: Labels) -> float:
    """Return Spearman's correlation of the pairs' cosines with the labels."""
    return _pearson(_ranks(_pair_cosines(outputs)), _ranks(_rows(labels)[:, 0]))


def lee_pearson(outputs: Outputs, labels: Labels) -> float:
    """Return Pearson's correlation over all pairs of documents with human similarity.

    A document's label is its own index followed by its row of the similarity matrix, so that the
    samples may be resampled: a document drawn twice makes no pair with itself.
    """
    vectors = np.stack([np.asarray(x, float).reshape(-1) for x in _only(outputs)])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = _rows(labels).astype(float)
    index = rows[:, 0].astype(int)
    first, second = np.triu_indices(len(index), 1)
    keep = index[first] != index[second]
    first, second = first[keep], second[keep]
    cosines = (vectors @ vectors.T)[first, second]
    return _pearson(cosines, rows[first, 1 + index[second]])


def ctc_exact_match(outputs: Outputs, labels: Labels) -> Array:
    """Return 1 where the line is read exactly, spaces ignored.

    Class 0 is CTC's blank, the last class the space. A label holds class indices without spaces,
    filled up with -1.
    """
    hits = []
    for scores, label in zip(_only(outputs), _rows(labels), strict=True):
        path = np.asarray(scores).reshape(-1, np.shape(scores)[-1])
        best = path.argmax(1)
        best = best[np.append(True, best[1:] != best[:-1])]
        best = best[(best != 0) & (best != path.shape[1] - 1)]
        hits.append(np.array_equal(best, label[label >= 0]))
    return np.array(hits, dtype=float)


def top1(outputs: Outputs, labels: Labels) -> Array:
    """Return 1 where the largest score is at the label."""
    best = np.array([int(np.asarray(x).reshape(-1).argmax()) for x in _only(outputs)])
    hits: Array = best == _rows(labels)[:, 0]
    return hits.astype(float)


for _function in (crepe_pitch_accuracy, crepe_pitch_accuracy_25, ctc_exact_match, top1):
    _function.per_sample = True  # type: ignore[attr-defined]  # values are streamed, outputs not held in memory
