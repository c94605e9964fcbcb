"""From calibration samples to curves: collect, decompose, score, probe, in the mode that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.positions import observe_positions
from onnx_lowrank.errors import GoalError
from onnx_lowrank.metrics import Metric, first_outputs
from onnx_lowrank.metrics.custom import from_file
from onnx_lowrank.metrics.divergence import DivergenceKind, divergence_kind
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.batching import batch_size
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity.calibrated import Calibrated, CalibrationSetup, OpenModel, ProbeSetup, SensitivityState
from onnx_lowrank.sensitivity.curves import merged
from onnx_lowrank.sensitivity.decompose import decompose_plain
from onnx_lowrank.sensitivity.kept_parts import parts_of, place_of
from onnx_lowrank.sensitivity.modes import JOINT, mode_of
from onnx_lowrank.store import remembered
from onnx_lowrank.types import Feed
from onnx_lowrank.types.words import counted, verb
from onnx_lowrank.weights.inventory import Inventory


def kind_of(opened: OpenModel, metric: Metric | None, samples: Samples) -> DivergenceKind:
    """Return the divergence that fits a metric and the model's outputs."""
    return divergence_kind(metric, first_outputs(opened.runner, samples.feeds))


def calibrate(
    opened: OpenModel,
    samples: Samples,
    inventory: Inventory,
    options: Options,
    progress: Progress,
    kind: DivergenceKind,
) -> Calibrated:
    """Return the sites decomposed on `samples`, deterministic for the options' seed. Raises DataError, MetricError."""
    return calibrate_on(opened, samples, inventory, options, progress, objective_of(opened, samples, options, kind))


def calibrate_on(
    opened: OpenModel,
    samples: Samples,
    inventory: Inventory,
    options: Options,
    progress: Progress,
    objective: Objective,
) -> Calibrated:
    """Return the sites decomposed for an objective."""
    outside = inventory.part(bodies=False) if inventory.bodies else inventory
    setup = calibration_setup(opened, samples, outside, options, objective)
    return _with_bodies(mode_of(options).calibrated(setup, progress), inventory, options)


def calibrate_together(
    opened: OpenModel,
    samples: Samples,
    inventory: Inventory,
    many: Sequence[Options],
    progress: Progress,
    kind: DivergenceKind,
) -> list[Calibrated]:
    """Return the sites decomposed for several options of mode `joint`, from one collection.

    They may differ in exponents, objective and the signed term. Raises DataError, MetricError.
    """
    outside = inventory.part(bodies=False) if inventory.bodies else inventory
    objectives = [objective_of(opened, samples, options, kind) for options in many]
    first = calibration_setup(opened, samples, outside, many[0], objectives[0])
    pairs = zip(many, objectives, strict=True)
    setups = [replace(first, options=options, objective=objective) for options, objective in pairs]
    done = JOINT.calibrated_together(setups, progress)
    return [_with_bodies(one, inventory, options) for one, options in zip(done, many, strict=True)]


def calibration_setup(
    opened: OpenModel, samples: Samples, inventory: Inventory, options: Options, objective: Objective
) -> CalibrationSetup:
    """Return all that calibration works on; a few samples are run to see where the sites work."""
    batch = batch_size(opened.runner, samples.feeds)
    observed = observe_positions(opened.model, inventory, samples.feeds, options)
    return CalibrationSetup(opened, samples, inventory, objective, options, observed, batch)


def _with_bodies(done: Calibrated, inventory: Inventory, options: Options) -> Calibrated:
    """Add the sites inside If, Loop and Scan: nothing can be observed in there, but their weights can be replaced."""
    if not inventory.bodies:
        return done
    inside = inventory.part(bodies=True)
    used = verb(len(inside.sites), "is used", "are used")
    many = f"{len(inside.sites)} of {counted(len(inventory.sites), 'weight')} {used} inside If, Loop or Scan"
    if not mode_of(options).measures:
        return replace(done, notes=(*done.notes, f"{many}: left as they are, no gradient gets there"))
    plain = decompose_plain(inside, multiple=options.rank_multiple)
    note = f"{many}, where nothing can be observed: plain SVD, and their losses are measured"
    return replace(
        done,
        decomposed=merged(inventory, done.decomposed, plain),
        fallback={**done.fallback, **{site.id: "used inside a body" for site in inside.sites}},
        notes=(*done.notes, note),
    )


def objective_of(opened: OpenModel, samples: Samples, options: Options, kind: DivergenceKind) -> Objective:
    """Return what the loss is; with labels only where the signed term is asked for. Raises MetricError, GoalError."""
    outputs = first_outputs(opened.runner, samples.feeds)
    counting = {name: values for name, values in outputs.items() if not options.outputs or name in options.outputs}
    objective = Objective.of(opened.model, kind, counting, options.seed)
    if not (options.first_order or mode_of(options).labelled):
        return objective
    custom = from_file(options.loss).function if options.loss else None
    if options.objective == "labels":
        _check_labels(samples, own_loss=custom is not None)
    if custom is not None and samples.labels is None:
        raise GoalError("a loss of your own needs labels with the calibration samples")
    objective = replace(objective, labels=samples.labels, custom=custom, signed=True)
    if not objective.has_slope:
        raise GoalError(
            "the first-order term is zero here: without labels the loss is the distance to the original's own outputs,"
            " and they are no class scores; give labels with --data, and --loss where they are no class numbers"
        )
    return objective


def _check_labels(samples: Samples, *, own_loss: bool) -> None:
    """Raise GoalError where there are no labels, or none that a cross-entropy takes."""
    if samples.labels is None:
        raise GoalError("--objective labels needs labels with the calibration samples: give `labels` with --data")
    if not own_loss and len(samples) and np.asarray(samples.labels[0]).dtype.kind not in "iu":
        kind = "text" if np.asarray(samples.labels[0]).dtype.kind in "US" else "no class numbers"
        raise GoalError(f"--objective labels needs class numbers, and these labels are {kind}: give --loss with it")


def probe(
    opened: OpenModel,
    inventory: Inventory,
    calibrated: Calibrated,
    options: Options,
    progress: Progress,
    held_back: Sequence[Feed] = (),
) -> SensitivityState:
    """Return the curves with predicted losses. held_back: samples that nothing was fitted on, to check them with."""
    mode, unit = mode_of(options), calibrated.objective.unit
    probed = remembered(
        place_of(options, calibrated.objective),
        progress,
        "probing",
        lambda: parts_of(opened, inventory, calibrated.samples, calibrated.objective, options, held_back),
        lambda: mode.probed(ProbeSetup(opened.model, inventory, calibrated, options, held_back), progress),
    )
    note = f"predicted rise of the loss: {unit}, {mode.source_of_losses(probed)}"
    return SensitivityState(calibrated, probed.curves, unit, probed.checks, probed.selection, note)
