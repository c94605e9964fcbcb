"""Modes with gradients: both sides of every weight are collected, and the rise of every rank is predicted from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnx_lowrank.collection.folds import Folds
from onnx_lowrank.collection.kept_groups import kept_scores
from onnx_lowrank.collection.sample_axis import tells_samples_apart
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks, straightened, widened
from onnx_lowrank.numerics.kronecker_metric import TwoSidedMetric
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Progress
from onnx_lowrank.sensitivity.calibrated import Calibrated, CalibrationSetup, Probed, ProbeSetup
from onnx_lowrank.sensitivity.curves import joint_curves, merged
from onnx_lowrank.sensitivity.one_sided import OneSidedMode, measured_curves
from onnx_lowrank.sensitivity.plan_checks import checked, how_far
from onnx_lowrank.types.words import counted, verb


@dataclass(frozen=True, slots=True)
class GradientMode:
    """metric: in which bases are fitted. measures: whether predictions are checked by substitution.

    labelled: the loss has labels, or decisions for labels, and its first-order term counts. layerwise: ranks are chosen
    layer by layer within γ. fallback: the mode of sites that no gradient reaches.
    """

    name: str
    help: str
    metric: TwoSidedMetric
    fallback: OneSidedMode
    measures: bool = True
    labelled: bool = False
    layerwise: bool = False
    switches: frozenset[str] = frozenset()
    needs_gradients: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def calibrated(self, setup: CalibrationSetup, progress: Progress) -> Calibrated:
        """Return the sites collected, fitted and scored; those without a gradient by the fallback."""
        return self.calibrated_together([setup], progress)[0]

    def calibrated_together(self, setups: Sequence[CalibrationSetup], progress: Progress) -> list[Calibrated]:
        """Return the same for several setups, from one collection: they may differ in exponents and labels."""
        first = setups[0]
        if not first.inventory.sites:
            return [self.fallback.calibrated(setup, progress) for setup in setups]
        shared = collection_setup(first, self.metric)
        collections = [replace(shared, objective=setup.objective, options=setup.options) for setup in setups]
        scores = kept_scores(collections, progress)
        done = [_calibrated(*pair, shared.folds) for pair in zip(setups, scores, strict=True)]
        return self._with_fallback(first, done, progress) if scores[0].unreached else done

    def _with_fallback(
        self, setup: CalibrationSetup, done: Sequence[Calibrated], progress: Progress
    ) -> list[Calibrated]:
        """Add the sites that no gradient reaches: bases in the metric of the inputs, losses measured."""
        fallback = done[0].fallback
        other = self.fallback.calibrated(setup.part(fallback), progress)
        reasons = sorted(set(fallback.values()))
        count = len(fallback)
        note = (
            f"{count} of {counted(len(setup.inventory.sites), 'weight')} {verb(count, 'has', 'have')} no"
            f" gradient ({'; '.join(reasons)}): {verb(count, 'its', 'their')} factors keep the outputs on"
            f" calibration inputs, and {verb(count, 'its losses', 'their losses')} are measured"
        )
        return [
            replace(
                one,
                decomposed=merged(setup.inventory, one.decomposed, other.decomposed),
                notes=(*one.notes, note),
            )
            for one in done
        ]

    def probed(self, setup: ProbeSetup, progress: Progress) -> Probed:
        """Return the curves corrected by whole plans, with measured losses where there is no gradient."""
        calibrated = setup.calibrated
        curves = calibrated.decomposed.curves
        if calibrated.joint is None:
            return self.fallback.probed(setup, progress)
        if not self.measures:
            return Probed(curves)
        others = tuple(curve for curve in curves if curve.site in calibrated.fallback)
        if others:
            measured = {curve.site: curve for curve in measured_curves(setup, others, progress)}
            curves = tuple(measured.get(curve.site, curve) for curve in curves)
        return checked(setup, calibrated.joint, curves, progress) if len(others) < len(curves) else Probed(curves)

    def source_of_losses(self, probed: Probed) -> str:
        """Say where the predicted losses come from, and how far they hold."""
        if not self.measures:
            return "first order only"
        if not probed.checks and any(curve.probes for curve in probed.curves):
            return "measured by substituting weights"
        return "; ".join(("exact to second order", *how_far(probed)))


def _calibrated(setup: CalibrationSetup, joint: JointScores, folds: Folds) -> Calibrated:
    """Return what a collection's scores give."""
    curves = joint_curves(setup.inventory, setup.observed, joint)
    scored = folds.scored[0]
    whole = [number for number in scored if number not in joint.broken] or scored  # or all are broken
    return Calibrated(
        curves.decomposed,
        setup.observed,
        setup.samples,
        setup.objective,
        fitted=len(setup.samples),
        score=[setup.samples.feeds[number] for number in whole],
        batch=setup.batch,
        joint=joint,
        tails={} if joint.uneven else curves.tails,
        slopes=curves.slopes,
        fallback=joint.unreached,
        notes=left_out_notes(joint, len(setup.samples), setup.options),
    )


def collection_setup(setup: CalibrationSetup, metric: TwoSidedMetric) -> CollectionSetup:
    """Return the joint collection, ready to run, with the batch at which it fits in the memory allowed."""
    options, model, samples = setup.options, setup.opened.model, setup.samples
    twin = straightened(widened(model))  # the model but for rounding: what has a gradient
    shapes = observed_ranks(twin, samples.feeds[0], runtime=options.runtime)
    # where two samples cannot run together (a fixed batch, rows that mix) every feed is one unit
    separate = setup.batch > 1 and tells_samples_apart(model, setup.inventory, samples.feeds, options)
    collection = CollectionSetup(
        twin,
        setup.opened.sha256,
        setup.inventory,
        setup.observed,
        samples,
        setup.objective,
        shapes,
        options,
        batch=setup.batch if separate else 1,
        separate=separate,
        metric=metric,
    )
    collection.check_memory()
    return collection.fitted_to_memory()


def left_out_notes(joint: JointScores, samples: int, options: Options) -> tuple[str, ...]:
    """Return what a user has to know of a collection: samples and terms that were left out, and why."""
    notes = []
    count = len(joint.broken)
    if count:
        said = "was left out: its gradients are" if count == 1 else "were left out: their gradients are"
        notes.append(f"{count} of {counted(samples, 'calibration sample')} {said} not finite")
    if joint.overflowing:
        count = len(joint.overflowing)
        which = "1 weight is left as it is" if count == 1 else f"{count} weights are left as they are"
        notes.append(f"{which}: inputs or gradients there are not finite, or too large for float32")
    if options.inter_layer and (joint.unreached or joint.uneven):
        why = "some weights have no gradient" if joint.unreached else "not all weights have the same samples"
        notes.append(f"--inter-layer is left out: {why}")
    return tuple(notes)
