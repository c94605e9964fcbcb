"""From calibration samples to curves: collect, decompose, probe. `optimize`, `apply` and the benchmark share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.calibration import Observed, observe, passes, stream_moments
from onnx_lowrank.metrics import Metric
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.subject import Subject, batch_of, first_outputs, probe_divergence, spread
from onnx_lowrank.progress import Progress
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity import Decomposed, decompose, probe_curves
from onnx_lowrank.sensitivity.probe import PROBES
from onnx_lowrank.sites import Found
from onnx_lowrank.types import Curve, Feed

SCORED = 64
"""Calibration samples set aside to score ranks on, at most."""
PROBED = 32
"""Of those, the ones that substituted weights are measured on, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """Every site decomposed. `fitted` samples gave the bases, the `score` feeds gave the errors."""

    decomposed: Decomposed
    observed: Observed
    samples: Samples
    fitted: int
    score: Sequence[Feed]
    batch: int


def calibrate(subject: Subject, samples: Samples, found: Found, options: Options, progress: Progress) -> Calibrated:
    """Return the sites decomposed on `samples`, deterministic for the options' seed. Raises DataError."""
    fit, score = (samples.subset(part).feeds for part in spread(samples, SCORED))
    batch = batch_of(subject, samples.feeds)
    observed = observe(subject.model, found, samples.feeds, options)
    total = passes(found, observed, batch) * (len(fit) + len(score))
    with progress.step("calibrating", total) as advance:
        moments = stream_moments(subject.model, found, observed, fit, score, options, batch=batch, progress=advance)
        whiten = options.sensitivity == "inputs"
        decomposed = decompose(found, observed, moments, whiten=whiten, multiple=options.rank_multiple)
    return Calibrated(decomposed, observed, samples, len(fit), score, batch)


def probe(
    subject: Subject, found: Found, calibrated: Calibrated, metric: Metric, options: Options, progress: Progress
) -> tuple[tuple[Curve, ...], str]:
    """Return the curves with predicted losses, and their unit."""
    divergence, unit = probe_divergence(metric, first_outputs(subject, calibrated.samples.feeds))
    with progress.step("probing sites", PROBES * len(calibrated.decomposed.curves)) as advance:
        curves = probe_curves(
            subject.model,
            found,
            calibrated.decomposed,
            calibrated.score[:PROBED],
            divergence,
            options,
            batch=calibrated.batch,
            progress=advance,
        )
    return curves, unit
