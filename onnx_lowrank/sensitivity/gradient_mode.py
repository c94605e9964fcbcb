"""Modes with gradients: both sides of every weight are collected, and the rise of every rank is predicted from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.sample_axis import tells_samples_apart
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.gradient import observed_ranks, straightened, widened
from onnx_lowrank.numerics.kronecker_metric import TwoSidedMetric
from onnx_lowrank.options import Options
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import Progress
from onnx_lowrank.sensitivity.calibrated import Calibrated, CalibrationSetup, ProbeSetup
from onnx_lowrank.sensitivity.curves import joint_curves, merged
from onnx_lowrank.sensitivity.one_sided import OneSidedMode, measured_curves
from onnx_lowrank.sensitivity.trust_range import AGREE, measure_trust_range
from onnx_lowrank.types import Curve, Option
from onnx_lowrank.weights.inventory import Inventory

TRUST_SAMPLES = 16
"""Samples that the trust range is measured on, at most."""
PROBED_KEEPS = (0.8, 0.6, 0.4)
"""The range is measured at the options that plans keeping these shares of the factorable parameters take."""


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
        if not setup.inventory.sites:
            return self.fallback.calibrated(setup, progress)
        collection = collection_setup(setup, self.metric)
        with progress.step("calibrating", collection.passes) as advance:
            joint = joint_scores(collection, advance)
        curves = joint_curves(setup.inventory, setup.observed, joint)
        scored = collection.folds.scored[0]
        whole = [number for number in scored if number not in joint.broken] or scored  # or all are broken
        done = Calibrated(
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
        return self._with_fallback(setup, done, progress) if joint.unreached else done

    def _with_fallback(self, setup: CalibrationSetup, done: Calibrated, progress: Progress) -> Calibrated:
        """Add the sites that no gradient reaches: bases in the metric of the inputs, losses measured."""
        other = self.fallback.calibrated(setup.part(done.fallback), progress)
        reasons = sorted(set(done.fallback.values()))
        note = (
            f"{len(done.fallback)} of {len(setup.inventory.sites)} weights have no gradient ({'; '.join(reasons)}):"
            " their factors keep the outputs on calibration inputs, and their losses are measured"
        )
        both = merged(setup.inventory, done.decomposed, other.decomposed)
        return replace(done, decomposed=both, notes=(*done.notes, note))

    def probed(self, setup: ProbeSetup, progress: Progress) -> tuple[Curve, ...]:
        """Return the curves with how far each is to be trusted, and with measured losses where there is no gradient."""
        calibrated = setup.calibrated
        curves = calibrated.decomposed.curves
        if calibrated.joint is None:
            return self.fallback.probed(setup, progress)
        if not self.measures:
            return curves
        predicted = tuple(curve for curve in curves if curve.site not in calibrated.fallback)
        checked = _checked(setup, calibrated.joint, predicted, progress)
        if calibrated.fallback:
            others = tuple(curve for curve in curves if curve.site in calibrated.fallback)
            checked = (*checked, *measured_curves(setup, others, progress))
        by_site = {curve.site: curve for curve in checked}
        return tuple(by_site[curve.site] for curve in curves)

    def source_of_losses(self, curves: Sequence[Curve]) -> str:
        """Say where the predicted losses come from, and how far they hold."""
        if not self.measures:
            return "first order only"
        ranges = [(curve, curve.trust_range) for curve in curves if curve.trust_range is not None]
        if not ranges:
            return "measured by substituting weights"
        whole = sum(trusted >= max(o.error for o in curve.options) for curve, trusted in ranges)
        return (
            f"exact to second order; of {len(ranges)} weights tried by substitution {whole} agree within a factor of"
            f" {AGREE:g}; the others carry measured values beyond their range"
        )


def collection_setup(setup: CalibrationSetup, metric: TwoSidedMetric) -> CollectionSetup:
    """Return the joint collection, ready to run, with the batch at which it fits in the memory allowed."""
    options, model, samples = setup.options, setup.opened.model, setup.samples
    twin = straightened(widened(model))  # the model but for rounding: what has a gradient
    shapes = observed_ranks(twin, samples.feeds[0], runtime=options.runtime)
    # where two samples cannot run together (a fixed batch, rows that mix) every feed is one unit
    separate = setup.batch > 1 and tells_samples_apart(model, setup.inventory, samples.feeds, options)
    return CollectionSetup(
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
    ).fitted_to_memory()


def left_out_notes(joint: JointScores, samples: int, options: Options) -> tuple[str, ...]:
    """Return what a user has to know of a collection: samples and terms that were left out, and why."""
    notes = []
    count = len(joint.broken)
    if count:
        said = "was left out: its gradients are" if count == 1 else "were left out: their gradients are"
        notes.append(f"{count} of {samples} calibration samples {said} not finite")
    if joint.overflowing:
        count = len(joint.overflowing)
        which = "1 weight is left as it is" if count == 1 else f"{count} weights are left as they are"
        notes.append(f"{which}: inputs or gradients there are not finite, or too large for float32")
    if options.inter_layer and (joint.unreached or joint.uneven):
        why = "some weights have no gradient" if joint.unreached else "not all weights have the same samples"
        notes.append(f"--inter-layer is left out: {why}")
    return tuple(notes)


def probe_picks(curves: Sequence[Curve], inventory: Inventory) -> dict[str, list[Option]]:
    """Return what to measure: the options that plans of several sizes would take."""
    problem = Problem(tuple(curves), {site.id: site.weight for site in inventory.sites}, "parameters")
    picks: dict[str, list[Option]] = {}
    for keep in PROBED_KEEPS:
        plan = problem.best(max(keep * problem.dense, problem.smallest), "")
        for choice in plan.factored if plan is not None else ():
            if choice.option not in picks.setdefault(choice.site, []):
                picks[choice.site].append(choice.option)
    return picks


def _checked(setup: ProbeSetup, joint: JointScores, curves: tuple[Curve, ...], progress: Progress) -> tuple[Curve, ...]:
    calibrated = setup.calibrated
    picks: Mapping[str, Sequence[Option]] = probe_picks(curves, setup.inventory)
    with progress.step("measuring the range", sum(map(len, picks.values()))) as advance:
        return measure_trust_range(
            setup.model,
            setup.inventory,
            curves,
            joint,
            picks,
            calibrated.score[:TRUST_SAMPLES],
            calibrated.objective.divergence,
            setup.options,
            batch=calibrated.batch,
            progress=advance,
        )
