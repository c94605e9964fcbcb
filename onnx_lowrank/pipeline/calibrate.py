"""From calibration samples to curves: collect, decompose, score, probe. All commands and the benchmark share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx_lowrank.collection import ObservedPositions, observe_positions, passes, stream_moments
from onnx_lowrank.collection.joint import joint_scores
from onnx_lowrank.collection.objective import Objective
from onnx_lowrank.collection.sample_axis import tells_samples_apart
from onnx_lowrank.collection.scores import JointScores
from onnx_lowrank.collection.setup import CollectionSetup
from onnx_lowrank.errors import GoalError
from onnx_lowrank.gradient import observed_ranks, straightened, widened
from onnx_lowrank.metrics import Metric
from onnx_lowrank.metrics.custom import from_file
from onnx_lowrank.metrics.divergence import DivergenceKind, divergence_kind
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.loaded_model import LoadedModel, batch_of, first_outputs, spread
from onnx_lowrank.plan import Problem
from onnx_lowrank.progress import Progress
from onnx_lowrank.samples import Samples
from onnx_lowrank.sensitivity import Decomposed, decompose, decompose_plain, probe_curves
from onnx_lowrank.sensitivity.curves import JointCurves, joint_curves, merged
from onnx_lowrank.sensitivity.substitution import PROBES
from onnx_lowrank.sensitivity.trust_range import AGREE, measure_trust_range
from onnx_lowrank.types import Array, Curve, Feed, Option
from onnx_lowrank.weights.inventory import Inventory

SCORED = 64
"""Calibration samples set aside to score ranks on, at most, where nothing is cross-fitted."""
PROBED = 32
"""Of those, the ones that substituted weights are measured on, at most."""
TRUST_SAMPLES = 16
"""Samples that the perturbation range is measured on, at most."""
PROBED_KEEPS = (0.8, 0.6, 0.4)
"""The range is measured at the options that plans keeping these shares of the factorable parameters take."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """Every site decomposed. `fitted` samples gave the bases, the `score` feeds gave the errors.

    tails, slopes: see `JointCurves`; empty where nothing is joint. fallback: sites without a gradient.
    """

    decomposed: Decomposed
    observed: ObservedPositions
    samples: Samples
    objective: Objective
    fitted: int
    score: Sequence[Feed]
    batch: int
    joint: JointScores | None = None
    tails: Mapping[str, Array] = field(default_factory=dict)
    slopes: Mapping[str, Array] = field(default_factory=dict)
    fallback: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def kind_of(loaded: LoadedModel, metric: Metric | None, samples: Samples) -> DivergenceKind:
    """Return the divergence that fits a metric and the model's outputs."""
    return divergence_kind(metric, first_outputs(loaded, samples.feeds))


def calibrate(
    loaded: LoadedModel,
    samples: Samples,
    inventory: Inventory,
    options: Options,
    progress: Progress,
    kind: DivergenceKind,
) -> Calibrated:
    """Return the sites decomposed on `samples`, deterministic for the options' seed. Raises DataError, MetricError."""
    return calibrate_on(loaded, samples, inventory, options, progress, objective_of(loaded, samples, options, kind))


def calibrate_on(
    loaded: LoadedModel,
    samples: Samples,
    inventory: Inventory,
    options: Options,
    progress: Progress,
    objective: Objective,
) -> Calibrated:
    """Return the sites decomposed for an objective."""
    if inventory.bodies and any(site.body for site in inventory.sites):
        return _with_bodies(loaded, samples, inventory, options, progress, objective)
    batch = batch_of(loaded, samples.feeds)
    observed = observe_positions(loaded.model, inventory, samples.feeds, options)
    if options.sensitivity in ("joint", "paper") and inventory.sites:
        return _joint(loaded, samples, inventory, observed, objective, options, batch, progress)
    return _one_sided(loaded, samples, inventory, observed, objective, options, batch, progress)


def _with_bodies(
    loaded: LoadedModel,
    samples: Samples,
    inventory: Inventory,
    options: Options,
    progress: Progress,
    objective: Objective,
) -> Calibrated:
    """Add the sites inside If, Loop and Scan: nothing can be observed in there, but their weights can be replaced."""
    done = calibrate_on(loaded, samples, inventory.part(bodies=False), options, progress, objective)
    inside = inventory.part(bodies=True)
    many = f"{len(inside.sites)} of {len(inventory.sites)} weights are used inside If, Loop or Scan"
    if options.sensitivity == "paper":  # which measures nothing
        return replace(done, notes=(*done.notes, f"{many}: left as they are, no gradient gets there"))
    plain = decompose_plain(inside, multiple=options.rank_multiple)
    note = f"{many}, where nothing can be observed: plain SVD, and their losses are measured"
    return replace(
        done,
        decomposed=merged(inventory, done.decomposed, plain),
        fallback={**done.fallback, **{site.id: "used inside a body" for site in inside.sites}},
        notes=(*done.notes, note),
    )


def objective_of(loaded: LoadedModel, samples: Samples, options: Options, kind: DivergenceKind) -> Objective:
    """Return what the loss is; with labels only where the signed term is asked for. Raises MetricError, GoalError."""
    outputs = first_outputs(loaded, samples.feeds)
    counting = {name: values for name, values in outputs.items() if not options.outputs or name in options.outputs}
    objective = Objective.of(loaded.model, kind, counting, options.seed)
    if not (options.signed or options.sensitivity == "paper"):
        return objective
    custom = from_file(options.loss).function if options.loss else None
    if custom is not None and samples.labels is None:
        raise GoalError("a loss of your own needs labels with the calibration samples")
    objective = replace(objective, labels=samples.labels, custom=custom, signed=True)
    if not objective.has_slope:
        raise GoalError(
            "the first-order term is zero here: without labels the loss is the distance to the original's own outputs,"
            " and they are no class scores; give labels with --data, and --loss where they are no class numbers"
        )
    return objective


def _one_sided(
    loaded: LoadedModel,
    samples: Samples,
    inventory: Inventory,
    observed: ObservedPositions,
    objective: Objective,
    options: Options,
    batch: int,
    progress: Progress,
) -> Calibrated:
    fit, score = (samples.subset(part).feeds for part in spread(samples, SCORED))
    total = passes(inventory, observed, batch) * (len(fit) + len(score))
    with progress.step("calibrating", total) as advance:
        moments = stream_moments(loaded.model, inventory, observed, fit, score, options, batch=batch, progress=advance)
        whiten = options.sensitivity != "weights"
        decomposed = decompose(inventory, observed, moments, whiten=whiten, multiple=options.rank_multiple)
    return Calibrated(decomposed, observed, samples, objective, len(fit), score, batch)


def joint_collection(
    loaded: LoadedModel,
    samples: Samples,
    inventory: Inventory,
    observed: ObservedPositions,
    objective: Objective,
    options: Options,
    batch: int,
) -> CollectionSetup:
    """Return the two passes, ready to run, with the batch at which they fit in the memory allowed."""
    twin = straightened(widened(loaded.model))  # the model but for rounding: what has a gradient
    shapes = observed_ranks(twin, samples.feeds[0], runtime=options.runtime)
    # where two samples cannot run together (a fixed batch, rows that mix) every feed is one unit
    separate = batch > 1 and tells_samples_apart(loaded.model, inventory, samples.feeds, options)
    return CollectionSetup(
        twin, loaded.sha256, inventory, observed, samples, objective, shapes, options, batch if separate else 1,
        separate, metric="weights" if options.sensitivity == "paper" else "joint",
    ).fitted_to_memory()  # fmt: skip


def _joint(
    loaded: LoadedModel,
    samples: Samples,
    inventory: Inventory,
    observed: ObservedPositions,
    objective: Objective,
    options: Options,
    batch: int,
    progress: Progress,
) -> Calibrated:
    collection = joint_collection(loaded, samples, inventory, observed, objective, options, batch)
    with progress.step("calibrating", collection.passes) as advance:
        joint = joint_scores(collection, advance)
    curves = joint_curves(inventory, observed, joint)
    scored = collection.folds.scored[0]
    first = [samples.feeds[i] for i in [i for i in scored if i not in joint.broken] or scored]  # or all are broken
    done = Calibrated(
        curves.decomposed, observed, samples, objective, len(samples), first, batch,
        joint, {} if joint.uneven else curves.tails, curves.slopes, joint.unreached,
        notes_of(joint, len(samples), options),
    )  # fmt: skip
    return _with_fallback(loaded, inventory, done, curves, options, progress) if joint.unreached else done


def notes_of(joint: JointScores, samples: int, options: Options) -> tuple[str, ...]:
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


def _with_fallback(
    loaded: LoadedModel,
    inventory: Inventory,
    done: Calibrated,
    curves: JointCurves,
    options: Options,
    progress: Progress,
) -> Calibrated:
    """Add the sites that no gradient reaches: bases in the metric of the inputs, losses measured."""
    rest = replace(inventory, sites=tuple(site for site in inventory.sites if site.id in done.fallback))
    settings = replace(options, sensitivity="inputs", signed=False, inter_layer=False, continuation=1, loss=None)
    other = _one_sided(loaded, done.samples, rest, done.observed, done.objective, settings, done.batch, progress)
    reasons = sorted(set(done.fallback.values()))
    note = (
        f"{len(done.fallback)} of {len(inventory.sites)} weights have no gradient ({'; '.join(reasons)}):"
        " their factors keep the outputs on calibration inputs, and their losses are measured"
    )
    return replace(done, decomposed=merged(inventory, curves.decomposed, other.decomposed), notes=(*done.notes, note))


def probe(
    loaded: LoadedModel, inventory: Inventory, calibrated: Calibrated, options: Options, progress: Progress
) -> tuple[tuple[Curve, ...], str]:
    """Return the curves with predicted losses, and their unit."""
    curves = calibrated.decomposed.curves
    if calibrated.joint is None:
        return _probed(
            loaded, inventory, calibrated, calibrated.decomposed, options, progress
        ), calibrated.objective.unit
    if options.sensitivity == "paper":  # first order only: nothing is measured
        return curves, calibrated.objective.unit
    joint_part = tuple(curve for curve in curves if curve.site not in calibrated.fallback)
    picks = probe_picks(joint_part, inventory)
    with progress.step("measuring the range", sum(map(len, picks.values()))) as advance:
        measured = measure_trust_range(
            loaded.model, inventory, joint_part, calibrated.joint, picks, calibrated.score[:TRUST_SAMPLES],
            calibrated.objective.divergence, options, batch=calibrated.batch, progress=advance,
        )  # fmt: skip
    if calibrated.fallback:
        others = tuple(curve for curve in curves if curve.site in calibrated.fallback)
        part = replace(calibrated.decomposed, curves=others)
        measured = (*measured, *_probed(loaded, inventory, calibrated, part, options, progress))
    by_site = {curve.site: curve for curve in measured}
    return tuple(by_site[curve.site] for curve in curves), calibrated.objective.unit


def _probed(
    loaded: LoadedModel,
    inventory: Inventory,
    calibrated: Calibrated,
    part: Decomposed,
    options: Options,
    progress: Progress,
) -> tuple[Curve, ...]:
    with progress.step("probing sites", PROBES * len(part.curves)) as advance:
        return probe_curves(
            loaded.model,
            inventory,
            part,
            calibrated.score[:PROBED],
            calibrated.objective.divergence,
            options,
            batch=calibrated.batch,
            progress=advance,
        )


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


def predicted_notes(options: Options, curves: Sequence[Curve], unit: str) -> list[str]:
    """Return where the predicted losses come from, and how far they hold."""
    probed = [curve for curve in curves if curve.trust_range is not None]
    if options.sensitivity != "joint" or not probed:
        how = "first order only" if options.sensitivity == "paper" else "measured by substituting weights"
        return [f"predicted rise of the loss: {unit}, {how}"]
    whole = sum(
        curve.trust_range >= max(o.error for o in curve.options) for curve in probed if curve.trust_range is not None
    )
    return [
        f"predicted rise of the loss: {unit}, exact to second order; of {len(probed)} weights tried by substitution"
        f" {whole} agree within a factor of {AGREE:g}; the others carry measured values beyond their range"
    ]
