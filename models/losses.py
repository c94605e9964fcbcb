"""Losses of the zoo in the product's custom form, by their gradient at the model's output; numpy only.

Use one as `--loss models/losses.py:NAME`, with `--signed` or `--sensitivity paper`: it gets the outputs of one sample
and its label, and returns {output: gradient of the loss there}, the output's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TINY = 1e-12
"""Probabilities below this are taken as this: their logarithm is finite."""


def ctc(outputs: Mapping[str, Array], label: Array) -> dict[str, Array]:
    """Return the gradient of CTC, −log P(label) over the number of steps, at the first output.

    The output holds probabilities (…, steps, classes) of one line: class 0 is the blank, the last class the space. The
    label holds class numbers without spaces, filled up with −1: as `ctc_exact_match` reads a line, a space is one more
    blank. Divided by the steps it is in the unit of the divergence that it is added to, a mean over steps. A label that
    needs more steps than there are has no gradient.
    """
    name, output = next(iter(outputs.items()))
    p = np.asarray(output, np.float64).reshape(-1, np.shape(output)[-1])
    target = np.asarray(label).reshape(-1)
    _, gradient = ctc_nats(p, target[target >= 0], blanks=(0, p.shape[1] - 1))
    return {name: (gradient / len(p)).reshape(np.shape(output)).astype(output.dtype)}


def ctc_nats(p: Array, target: Array, *, blanks: tuple[int, ...]) -> tuple[float, Array]:
    """Return −log P(target) and its gradient at p (steps, classes); the classes in `blanks` stand for nothing.

    Forward-backward over the states blank, t_1, blank, …, t_n, blank, in logarithms. With a the probability of all
    beginnings that reach a state (before its own factor) and b that of all ends from there, ∂P/∂p is the sum of a b
    over the states that read this probability: nothing is divided by what may be zero.
    """
    steps, states = len(p), 2 * len(target) + 1
    odd = np.arange(1, states, 2)
    own = np.empty((steps, states))
    own[:, ::2] = p[:, list(blanks)].sum(1, keepdims=True)
    own[:, odd] = p[:, target]
    own = np.log(np.maximum(own, TINY))
    skips = np.full(states, -np.inf)  # from one letter to the next, where they differ
    skips[odd[1:]] = np.where(target[1:] != target[:-1], 0.0, -np.inf)
    before = _swept(own, skips, first=(0, 1))
    back = np.append(skips[2:], [-np.inf] * min(2, states))[::-1]
    after = _swept(own[::-1, ::-1], back, first=(0, 1))[::-1, ::-1]
    whole = np.logaddexp.reduce((before + own)[-1, -2:])
    gradient = np.zeros_like(p)
    if np.isneginf(whole):
        return np.inf, gradient
    share = np.exp(before + after - whole)
    for blank in blanks:
        gradient[:, blank] = -share[:, ::2].sum(1)
    np.subtract.at(gradient, (slice(None), target), share[:, odd])
    return -float(whole), gradient


def _swept(own: Array, skips: Array, *, first: tuple[int, ...]) -> Array:
    """Return (steps, states) log-probability of what comes before each state, its own factor left out."""
    found = np.full(own.shape, -np.inf)
    found[0, [state for state in first if state < own.shape[1]]] = 0.0
    for step in range(1, len(own)):
        last = found[step - 1] + own[step - 1]
        one, two = np.full_like(last, -np.inf), np.full_like(last, -np.inf)
        one[1:], two[2:] = last[:-1], last[:-2]
        found[step] = np.logaddexp(np.logaddexp(last, one), two + skips)
    return found
