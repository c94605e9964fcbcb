"""Judges on calibration samples that nothing is fitted on: plans are looked over by them before validation is."""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.goals import Gate
from onnx_lowrank.metrics import CrossEntropy, Metric, choose_metric
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.judges import make_judge
from onnx_lowrank.pipeline.loaded_model import LoadedModel, first_outputs
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.calibrated import SensitivityState
from onnx_lowrank.validation import Judge


def screening_judge(
    loaded: LoadedModel, samples: Samples | None, metric: Metric, options: Options
) -> tuple[Judge, bool] | None:
    """Return the judge on samples held back, and whether its metric is the run's own; None where there are none."""
    if samples is None:
        return None
    own = samples.labels is not None or not metric.needs_labels
    if not own:
        metric, _ = choose_metric(None, None, first_outputs(loaded, samples.feeds))
    return make_judge(loaded, replace(samples, groups=None), metric, Gate(observed=True), options), own


def labelled_judge(
    loaded: LoadedModel, samples: Samples | None, state: SensitivityState | None, options: Options
) -> Judge | None:
    """Return the judge of the labels' cross-entropy on the same samples, with the objective of the labels.

    None where they are not held back, and where the loss is the user's own, of which the gradient alone is known.
    """
    if options.objective != "labels" or options.loss is not None or state is None:
        return None
    scores = state.calibrated.objective.class_scores
    if samples is None or samples.labels is None or scores is None:
        return None
    metric = CrossEntropy(scores.name)
    return make_judge(loaded, replace(samples, groups=None), metric, Gate(observed=True), options)
