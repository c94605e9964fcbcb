"""The judges of a goal: on all validation samples, and on a part of them where that may save time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onnx_lowrank import metrics
from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import Measured, Metric
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.loaded_model import LoadedModel
from onnx_lowrank.pipeline.session_values import Judges
from onnx_lowrank.samples import Samples
from onnx_lowrank.statistics import binary
from onnx_lowrank.validation import KEPT_BYTES, Judge
from onnx_lowrank.validation.looks import first_look, first_samples

OUTPUTS = 8
"""The original's outputs on a set that take more than this part of the memory allowed lie in a file."""
PREVIEW, PREVIEW_LEAST, PREVIEW_LEVEL = 5, 100, 0.999
"""A preview takes a fifth of the validation samples, at least 100, and intervals of this level."""


def judges_of(
    loaded: LoadedModel,
    samples: Samples,
    metric: Metric,
    gate: Gate,
    options: Options,
    original: Callable[[], Measured],
    *,
    spread: bool,
) -> Judges:
    """Return the judges on validation. `original`: gives what was measured of it, where values decide.

    Of the plans of a certified sequence one at most fails: there a look for hopeless ones costs more than it saves.
    """
    whole = make_judge(loaded, samples, metric, gate, options, spread=spread)
    if gate.observed:
        return Judges(whole, preview=make_preview(loaded, samples, metric, gate, options, spread=spread))
    if spread:
        return Judges(whole)
    return Judges(whole, early=make_early(loaded, samples, metric, gate, options, original()))


def make_judge(
    loaded: LoadedModel, samples: Samples, metric: Metric, gate: Gate, options: Options, *, spread: bool = False
) -> Judge:
    """Return the judge of candidates on one set. `spread`: the original is not deterministic."""
    return Judge(
        loaded.runner, samples.feeds, samples.labels, metric, gate, seed=options.seed, groups=samples.group_numbers,
        outputs=options.outputs or None, spread=spread, limit=kept_outputs(options),
    )  # fmt: skip


def kept_outputs(options: Options) -> int:
    """Return how many bytes of the original's outputs each judge may hold: there are four at most."""
    return min(options.memory // OUTPUTS, KEPT_BYTES)


def make_preview(
    loaded: LoadedModel, samples: Samples, metric: Metric, gate: Gate, options: Options, *, spread: bool = False
) -> Judge | None:
    """Return the judge of a preview: a part of the samples, at a level so high that chance does not decide.

    A candidate whose drop's interval lies above the allowed drop even there is not run on the rest; one that passes the
    preview still has to pass on the whole set. None where the set is too small to save anything.
    """
    count = max(len(samples) // PREVIEW, PREVIEW_LEAST)
    if 2 * count > len(samples):
        return None
    part, certain = _spread(samples, count), replace(gate, confidence=PREVIEW_LEVEL)
    return make_judge(loaded, part, metric, certain, options, spread=spread)


def make_early(
    loaded: LoadedModel, samples: Samples, metric: Metric, gate: Gate, options: Options, measured: Measured
) -> Judge | None:
    """Return the judge of a first look, on a part of the samples. `measured`: the original.

    None where the set is too small, where values are not right or wrong, where drops are relative and where samples
    share sources.
    """
    values, count = measured.values, first_samples(len(samples), gate, metrics.allowed_drop(metric, gate))
    if not count or samples.groups is not None or gate.relative or isinstance(values, float) or not binary(values):
        return None
    return make_judge(loaded, _spread(samples, count), metric, first_look(gate), options)


def _spread(samples: Samples, count: int) -> Samples:
    return samples.subset([int(i) for i in np.linspace(0, len(samples) - 1, count)])
