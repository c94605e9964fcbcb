"""Predictions checked on samples that nothing was fitted on, where there are any, and what to say of it."""

from __future__ import annotations

from dataclasses import replace

from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.schemes import Factors
from onnx_lowrank.sensitivity.calibrated import Probed, ProbeSetup
from onnx_lowrank.sensitivity.correction import Correction
from onnx_lowrank.sensitivity.selection import cross_validated
from onnx_lowrank.sensitivity.substitution import substitutable
from onnx_lowrank.sensitivity.trust_range import AGREE
from onnx_lowrank.sensitivity.whole_plans import PRECISION, PlanMeter
from onnx_lowrank.types import Curve, FactorKey
from onnx_lowrank.types.words import counted, verb

SHARE = 0.75
"""Samples that are run for it, as a share of those that were collected on: about a tenth of the time of collecting."""
LEAST, FEW = 12, 64
"""But so many times as many as were held back, up to FEW of them: few samples take little time."""


def checked(setup: ProbeSetup, joint: JointScores, curves: tuple[Curve, ...], progress: Progress) -> Probed:
    """Return the curves corrected by whole plans that were measured.

    On samples held back, with the factors that a plan writes; without any on scored samples of the first fold, with
    factors that were fitted without it.
    """
    calibrated, own = setup.calibrated, not setup.held_back
    sites = {site.id: site for site in setup.inventory.sites}

    def factors(key: FactorKey) -> Factors:
        scores = joint.scored.get(key) if own else None
        return calibrated.decomposed.factors[key] if scores is None else scores.held

    feeds = calibrated.score if own else setup.held_back
    allowance = max(int(SHARE * calibrated.fitted), LEAST * min(len(feeds), FEW))
    model = substitutable(setup.model, setup.inventory, [sites[curve.site] for curve in curves])
    with progress.step("measuring whole plans", allowance) as advance:
        weights = {site.id: site.weight for site in setup.inventory.sites}
        selection = cross_validated(calibrated.decomposed.curves, calibrated.tails, weights)
        if setup.options.first_order:  # losses may be negative: no mean with an error
            selection = replace(selection, blend=0.0)
        meter = PlanMeter(
            Runner(model, runtime=setup.options.runtime), setup.inventory, factors, feeds,
            calibrated.objective.probing, calibrated.batch, setup.options.memory // 4, advance,
        )  # fmt: skip
        work = Correction(curves, weights, meter, allowance, selection.blend)
        return Probed(*work.run(), selection, held_back=not own)


def how_far(probed: Probed) -> list[str]:
    """Say how far predictions hold: of what was measured with enough samples, and of nothing else."""
    said = []
    precise = [check for check in probed.checks if check.precise]
    where = "samples that nothing was fitted on" if probed.held_back else "calibration samples, as none were held back"
    if precise:
        near = sum(check.agrees for check in precise)
        said.append(
            f"{near} of {counted(len(precise), 'whole plan')} that {verb(len(precise), 'was', 'were')} measured to"
            f" {100 * PRECISION:.0f} % or better on {where}"
            f" {verb(near, 'loses', 'lose')} what is predicted within a factor of {AGREE:g}"
        )
    elif probed.checks:
        said.append(f"too few samples to check it on ({where})")
    moved = sum(
        curve.trust_range is not None and curve.trust_range < max(o.error for o in curve.options)
        for curve in probed.curves
    )
    if moved:
        does = verb(moved, "loses more than predicted and carries", "lose more than predicted and carry")
        said.append(f"{moved} of {counted(len(probed.curves), 'weight')} {does} what was measured")
    if probed.selection.blend:
        said.append("ranks are chosen by the errors of the weights as well: such plans did better on other samples")
    return said
