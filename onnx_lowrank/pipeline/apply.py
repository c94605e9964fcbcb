"""`apply`: repeat a saved plan's schemes and ranks on the model it was made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_lowrank.errors import DataError, PlanError
from onnx_lowrank.files import spare
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline.calibrate import calibrate
from onnx_lowrank.pipeline.finish import checked, on_disk, publish, stamp
from onnx_lowrank.pipeline.stack import Stack, settings_of
from onnx_lowrank.pipeline.study import refitted
from onnx_lowrank.pipeline.subject import DataSources, Subject, read_samples
from onnx_lowrank.progress import Progress, Silent
from onnx_lowrank.rewrite import rewrite
from onnx_lowrank.runtime import Runner
from onnx_lowrank.samples import Source, Split
from onnx_lowrank.saved_plan import SavedChoice, SavedPlan, read_plan
from onnx_lowrank.schemes import Factors, by_name, ranks_of, shared_ranks
from onnx_lowrank.sensitivity import Decomposed, decompose_plain
from onnx_lowrank.sensitivity.decompose import family_of
from onnx_lowrank.sites import Found, find_sites
from onnx_lowrank.types import SHARED, Choice, Option, Plan, Ranks, Site
from onnx_lowrank.version import __version__


def apply(
    plan: SavedPlan | Path | str,
    model: onnx.ModelProto | Path | str,
    data: Source | None = None,
    options: Options | None = None,
    *,
    output: Path | str | None = None,
    validation: Source | None = None,
    progress: Progress | None = None,
    before_writing: Callable[[], None] | None = None,
) -> onnx.ModelProto:
    """Return the model with the plan's sites factored; with `output`, also write it, checked and loadable.

    `data` are the calibration samples, needed unless the plan came from the weights alone. Give the same `data` (and
    `validation`, if there was one) as the run that made the plan, and the same factors come out. Nothing is validated
    here: `compare` judges the result. The input is never overwritten; `before_writing` is called right before `output`
    is written, and what it raises leaves it as it was. Raises PlanError where plan and model do not belong together,
    DataError, ModelError.
    """
    saved = plan if isinstance(plan, SavedPlan) else read_plan(Path(plan))
    options = replace(
        options or Options(),
        sensitivity=saved.sensitivity,
        seed=saved.seed,
        rank_multiple=saved.rank_multiple,
        refit=saved.refit,
        then=saved.then,
        siblings=saved.siblings,
        outputs=saved.outputs,
        groups=saved.groups,
    )
    subject = Subject.of(model, options)
    if output is not None:
        spare(Path(output), subject.files)
    if subject.sha256 != saved.model_sha256:
        raise PlanError(
            f"the plan was made for another model (sha256 {saved.model_sha256[:12]}…, this one has"
            f" {subject.sha256[:12]}…): give the model it was made for"
        )
    names = {choice.weight for choice in saved.choices}
    found = find_sites(subject.model, multiple=saved.rank_multiple).sharing(options.shares)
    if saved.sensitivity != "joint":  # there, what samples are run in depends on all sites
        found = replace(found, sites=tuple(site for site in found.sites if site.weight in names))
    progress = progress or Silent()
    split = _samples(saved, subject, data, validation, options, progress)
    stack = Stack(subject, split.calibration.feeds if split is not None else (), options, progress)
    decomposed, factors = _decomposed(saved, subject, found, split, options, progress)
    chosen = _plan(saved, found, decomposed)
    rewritten = stack.on(rewrite(subject.model, found, chosen, factors(chosen)), chosen.choices)
    stamp(
        rewritten, chosen, version=__version__, goal="apply", options=options,
        sha256=subject.sha256, warning="", then=settings_of(options),
    )  # fmt: skip
    with on_disk(rewritten, Path(output) if output is not None else None) as stage:
        checked(stage.path, subject)
        Runner(stage.path, provider=options.provider, threads=options.threads)
        if output is not None:
            publish(stage, subject, before_writing)
    return rewritten


def _samples(
    saved: SavedPlan,
    subject: Subject,
    data: Source | None,
    validation: Source | None,
    options: Options,
    progress: Progress,
) -> Split | None:
    """Return the samples, None where the plan needs none. Raises DataError where they are missing."""
    if not saved.needs_data:
        return None
    if data is None:
        sensitivity = f"--sensitivity {saved.sensitivity}{', --refit' if saved.refit else ''}"
        what = (
            f"factors depend on the inputs ({sensitivity})" if saved.factors_need_data else "int8 ranges come from them"
        )
        raise DataError(f"this plan's {what}: give the calibration samples with --data")
    return read_samples(subject, DataSources(data=data, validation=validation), options, progress)


def _decomposed(
    saved: SavedPlan, subject: Subject, found: Found, split: Split | None, options: Options, progress: Progress
) -> tuple[Decomposed, Callable[[Plan], Mapping[tuple[str, str], Factors]]]:
    if split is None or not saved.factors_need_data:
        plain = decompose_plain(found, multiple=saved.rank_multiple)
        return plain, lambda plan: plain.factors
    done = calibrate(subject, split.calibration, found, options, progress, saved.divergence).decomposed

    def factors(plan: Plan) -> Mapping[tuple[str, str], Factors]:
        return refitted(subject, split, found, plan, done.factors, options) if saved.refit else done.factors

    return done, factors


def _plan(saved: SavedPlan, found: Found, decomposed: Decomposed) -> Plan:
    sites = {site.weight: site for site in found.sites}
    chosen = (
        _choice(choice, sites.get(choice.weight), found, decomposed, saved.rank_multiple) for choice in saved.choices
    )
    return Plan(tuple(chosen), "applied")


def _choice(choice: SavedChoice, site: Site | None, found: Found, decomposed: Decomposed, multiple: int) -> Choice:
    if site is None or site.shape != choice.shape:
        have = "no such weight that can be factored" if site is None else f"{site.shape}"
        raise PlanError(f"the plan factors {choice.weight!r} of shape {choice.shape}, and the model has {have}")
    if (choice.site, choice.scheme) not in decomposed.factors:
        raise PlanError(f"the plan factors {choice.weight!r} by {choice.scheme!r}, which is not possible here")
    if choice.ranks not in _ranks(choice, site, found, multiple):
        rank = "x".join(map(str, choice.ranks))
        raise PlanError(f"the plan gives {choice.weight!r} rank {rank}, which is none of those that save here")
    curve = next(c for c in decomposed.curves if c.site == choice.site)
    cost = curve.dense.cost
    return Choice(choice.site, choice.weight, Option(choice.scheme, choice.ranks, cost, family=choice.family))


def _ranks(choice: SavedChoice, site: Site, found: Found, multiple: int) -> list[Ranks]:
    """Return the ranks that the choice's scheme offers. Raises PlanError for siblings that are none here."""
    if choice.scheme != SHARED:
        return ranks_of(by_name(choice.scheme), site, multiple)
    family = family_of(found).get(site.id)
    if family is None or family.members != choice.family:
        raise PlanError(f"the plan gives {choice.weight!r} other siblings than it has here: save the plan again")
    return shared_ranks(family, multiple)
