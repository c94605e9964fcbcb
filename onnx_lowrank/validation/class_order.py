"""Labels that number classes in another order than the model: where some are right, chance is beaten all the same."""

from __future__ import annotations

import numpy as np
from scipy import optimize

from onnx_lowrank.types import Array

MOSTLY, FEW = 0.6, 3
"""A class is another one if this share of its samples, and so many, are decided for that."""
GAIN, HALF, SHOWN = 0.1, 0.5, 4
"""The share of samples that have to be right in addition with classes renumbered, and in all: inputs that are prepared
otherwise than in training mix classes up, too. Renumbered ones that are told."""


def other_order(labels: Array, decided: Array) -> str:
    """Return what says that (n,) labels are in another order than (n,) decisions; empty where nothing does.

    Classes are told one to one so that most decisions are right (an assignment problem). A model that takes one class
    for another still finds that other one: only where names were exchanged are there two or more such classes.
    """
    names, places = np.unique(np.stack([labels, decided]), return_inverse=True)
    actual, told = places.reshape(2, -1)
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (actual, told), 1)
    own = counts.sum(axis=1)
    moved = [
        (a, b)
        for a, b in zip(*optimize.linear_sum_assignment(-counts), strict=True)
        if a != b and counts[a, b] >= max(MOSTLY * own[a], FEW)
    ]
    gained = sum(counts[a, b] - counts[a, a] for a, b in moved) / len(labels)
    right = float(np.mean(labels == decided))
    if len(moved) < 2 or gained < GAIN or right + gained < HALF:
        return ""
    renumbered = ", ".join(f"{names[a]} → {names[b]}" for a, b in moved[:SHOWN]) + ", …" * (len(moved) > SHOWN)
    return (
        f"the labels are in another order than the model's classes: the original is right in {right:.4f} of"
        f" {len(labels)} validation samples, and in {right + gained:.4f} with classes renumbered ({renumbered});"
        " --classes gives the order of named ones"
    )
