"""Rounding in a metric A ⊗ B: what a number is off is made up for by those that are rounded after it.

Of W (out, in) rounded to Ŵ on a grid, tr(B (W − Ŵ) A (W − Ŵ)ᵀ) is to be small. Number after number is rounded, and its
error spread over the numbers left by the closed-form minimiser for them: GPTQ (Frantar et al., ICLR 2023), which is
Babai's nearest plane, here with the Cholesky factor of a Kronecker product, itself a product of two: along the inputs
by A, along the outputs by B. Inputs are rounded one by one; outputs in blocks of ROWS at a time, which do not see one
another's errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.numerics import linalg
from onnx_lowrank.types import Array

ROWS = 64
"""Outputs that are rounded together."""
DAMPING = 0.1
"""The share of the mean of its diagonal that is added to a moment's: samples are few, and what is exact is not sure."""
Scales = Callable[[Array], Array]
"""(inputs of a block, k) numbers -> (k,) their scales, one for all inputs of the block."""


@dataclass(frozen=True, slots=True, eq=False)
class Eliminated:
    """The upper triangular U (d, d) with (M + damping)⁻¹ = Uᵀ U: row i says where an error at i goes."""

    upper: Array

    @staticmethod
    def of(moment: Array | None) -> Eliminated | None:
        """Return it for a second moment (d, d); None for none, and for one that is zero or not finite."""
        if moment is None:
            return None
        mean = float(moment.trace()) / len(moment)
        if not np.isfinite(mean) or mean <= 0:
            return None
        lower = linalg.lower_root(moment + DAMPING * mean * np.eye(len(moment)))
        inverse = linalg.solve_upper(lower.T, np.eye(len(moment)))  # (Lᵀ)⁻¹, upper
        return Eliminated(np.ascontiguousarray(linalg.lower_root(inverse @ inverse.T).T))


def compensated(
    weight: Array,
    inputs: Eliminated | None,
    outputs: Eliminated | None,
    scales: Scales,
    low: int,
    high: int,
    block: int,
) -> Array:
    """Return (out, in, taps) numbers scale · q, q whole from low to high, a scale for `block` inputs of an output and a
    tap.

    inputs, outputs: of A and B; None: errors there are not made up for. Taps are rounded in one metric, each by itself.
    """
    rows, columns, taps = weight.shape
    left = np.array(weight, np.float64)
    made = np.empty_like(left)
    together = rows if outputs is None else ROWS
    for start in range(0, rows, together):
        part = slice(start, min(start + together, rows))
        flat = np.ascontiguousarray(np.moveaxis(left[part], 1, 0)).reshape(columns, -1)
        rounded = _by_inputs(flat, inputs, scales, low, high, block)
        made[part] = np.moveaxis(rounded.reshape(columns, -1, taps), 0, 1)
        if outputs is not None and part.stop < rows:
            upper = outputs.upper
            error = (left[part] - made[part]).reshape(part.stop - start, -1)
            spread = linalg.solve_lower(upper[part, part].T, error)
            left[part.stop :] -= (upper[part, part.stop :].T @ spread).reshape(rows - part.stop, columns, taps)
    return made


def _by_inputs(numbers: Array, inputs: Eliminated | None, scales: Scales, low: int, high: int, block: int) -> Array:
    """Return (in, k) numbers rounded, input after input; `numbers` is used up."""
    made = np.empty_like(numbers)
    for start in range(0, len(numbers), block):
        stop = min(start + block, len(numbers))
        scale = scales(numbers[start:stop])
        if inputs is None:
            made[start:stop] = np.clip(np.rint(numbers[start:stop] / scale), low, high) * scale
            continue
        upper, errors = inputs.upper, np.empty((stop - start, numbers.shape[1]))
        for at in range(start, stop):
            made[at] = np.clip(np.rint(numbers[at] / scale), low, high) * scale
            errors[at - start] = (numbers[at] - made[at]) / upper[at, at]
            numbers[at + 1 : stop] -= np.outer(upper[at, at + 1 : stop], errors[at - start])
        numbers[stop:] -= upper[start:stop, stop:].T @ errors
    return made
